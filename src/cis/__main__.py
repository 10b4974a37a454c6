"""``python -m cis``: the command ``cis``."""

from cis.cli.main import command

command()
