"""What a DAG is and what may become of it: pure, with no I/O, no clock and no randomness."""
