"""``cis dag schema``: the schema as it is kept in the package, since to make it takes all that reads documents."""

from __future__ import annotations

import argparse
from pathlib import Path

import cis.model


def schema(_: argparse.Namespace) -> None:
    """Print the JSON Schema of a document."""
    print(Path(cis.model.__path__[0], "dag.schema.json").read_text(encoding="utf-8"), end="")
