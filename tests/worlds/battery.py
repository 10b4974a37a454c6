"""What the parts of the battery (``make chaos``) share: how long each is, its seed, and the figures that it prints.

A part is short in ``make test`` and long where ``CIS_LONG=1``. Short ones begin at seed 1, so that two runs of the tests
do the same; long ones begin at a new seed each time. ``CIS_SEED`` repeats the one that a part printed.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

LONG = os.environ.get("CIS_LONG") == "1"
FIGURES = Path(__file__).parents[2] / "build" / "chaos"


def size(short: int, long: int) -> int:
    """Return how many of something this run does."""
    return long if LONG else short


def first_seed() -> int:
    """Return the seed that a part begins at, and say it."""
    given = os.environ.get("CIS_SEED")
    seed = int(given) if given else secrets.randbelow(2**31) if LONG else 1
    print(f"CIS_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed


def figures(part: str, **found: float | str) -> None:
    """Print what a part found, and keep it in ``build/chaos`` for the report."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{part}.json").write_text(json.dumps({"part": part, "long": LONG, **found}, indent=1) + "\n")
    print(f"{part}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items()))  # noqa: T201
