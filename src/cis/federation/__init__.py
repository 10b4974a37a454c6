"""What crosses between nodes: messages, reports, offers, grants; the side of the origin and that of the executing node."""
