"""Each bound in the reference is the one in the code, and no bound in the code is missing there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from cis.node.settings import OPTIONS, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([^`|]+)` \|", PAGE, re.MULTILINE)
UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "KiB": 2**10, "MiB": 2**20}
IN_SECONDS = {"_S": 1, "_MS": 1000, "_US": 1_000_000}
_CONSTANT = re.compile(r"^((?:MAX|KEEP|MOST)_[A-Z_]+)(?:: [^=]+)? = ", re.MULTILINE)
_PRAGMA = re.compile(r"journal_size_limit = (\d+)")


def told(bound: str) -> float | None:
    """Return a bound of the page as a number: bytes, seconds, or a count."""
    if bound == "none":
        return None
    number, _, unit = bound.partition(" ")
    return float(number.replace(",", "")) * UNITS[unit]


def held(place: str) -> float | None:
    """Return what the code holds to: a constant by its full name, or a setting's default."""
    if place.startswith("["):
        option = next(each for each in OPTIONS if f"[{each.section}] {each.key}" == place)
        default = getattr(Settings(node_id="n"), option.field)
        return None if default is None else float(default)
    if place == "cis.store.sqlite.connection":
        found = _PRAGMA.search((ROOT / "src/cis/store/sqlite/connection.py").read_text(encoding="utf-8"))
        assert found is not None
        return float(found[1])
    module, _, name = place.rpartition(".")
    value = float(getattr(import_module(module), name))
    scale = next((scale for suffix, scale in IN_SECONDS.items() if name.endswith(suffix)), 1)
    return value / scale


@pytest.mark.parametrize(("what", "bound", "place"), ROWS, ids=[place for _, _, place in ROWS])
def test_each_bound_is_the_one_in_the_code(what: str, bound: str, place: str) -> None:
    assert told(bound) == held(place), what


def test_no_bound_of_the_code_is_missing() -> None:
    there = {place for _, _, place in ROWS}
    missing = []
    for path in sorted((ROOT / "src" / "cis").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        if not module.startswith("cis.cli."):  # what is shown on a terminal
            names = _CONSTANT.findall(path.read_text(encoding="utf-8"))
            missing += [f"{module}.{name}" for name in names if f"{module}.{name}" not in there]

    assert missing == []
