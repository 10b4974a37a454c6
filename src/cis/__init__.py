"""CIS-DAG: run DAGs of work across your own machines, each scope in a worker of its own."""

__version__ = "0.1.0"
