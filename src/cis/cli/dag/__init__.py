"""``cis dag …``: running DAGs, and asking how they went."""

from cis.cli.dag.commands import add

__all__ = ["add"]
