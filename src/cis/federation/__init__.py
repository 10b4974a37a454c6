"""What crosses between nodes: runs and control one way, state back.

``messages`` and ``inbox`` send and receive; ``report`` is the executing node's side, ``mirror`` the origin's.
``offers`` and ``grants`` are the two sides of the protocol by which exactly one node takes what the room offers;
``restored`` is a node after a backup.
"""
