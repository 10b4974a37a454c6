"""Accepting a DAG: where it goes, what keeps it out, and control of what was accepted."""
