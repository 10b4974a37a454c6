"""Commands that are imported when they are called: whoever types another one waits for nothing of them."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any


def later(call: str) -> Any:
    """Return a function that imports ``module:function`` of this package when it is called."""
    module, _, function = call.partition(":")

    def run(options: argparse.Namespace) -> int | None:
        result: int | None = getattr(import_module(f"cis.cli.{module}"), function)(options)
        return result

    return run
