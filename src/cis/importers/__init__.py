"""Other tools' files as DAGs."""
