"""What a reader gets: lines while it runs, a table in Markdown, JSON, and the block of a document written anew."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw

from tests.bench.figures import Figure, Result

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_DIGITS = {"ratio": 2, "ms": 2, "s": 2, "MB": 1}


def number(value: float, unit: str) -> str:
    """Return a value with as many digits as its unit deserves."""
    return f"{value:,.{_DIGITS.get(unit, 0)}f}"


def bar(figure: Figure) -> str:
    """Return the bar in words, or nothing."""
    low, high = figure.at_least, figure.at_most
    parts = [f"≥ {number(low, figure.unit)}"] if low is not None else []
    parts += [f"≤ {number(high, figure.unit)}"] if high is not None else []
    return " and ".join(parts)


def verdict(figure: Figure) -> str:
    """Return whether the bar is held, in a word."""
    return {None: "", True: "yes", False: "NO"}[figure.passes]


def line(figure: Figure) -> str:
    """Return a figure as one line for people who watch."""
    unit = "" if figure.unit == "ratio" else f" {figure.unit}"
    text = f"  {figure.what:52} {number(figure.median, figure.unit):>9}{unit}"
    if len(figure.values) > 1:
        low, high = (number(edge(figure.values), figure.unit) for edge in (min, max))
        text += f"   ({low} … {high}, {len(figure.values)} rounds)"
    if figure.passes is not None:
        text += f"   bar {bar(figure)}: {verdict(figure)}"
    return text


def markdown(result: Result, about: dict[str, Any]) -> str:
    """Return the table, under a line that says when and where."""
    kind = "full size" if about["full"] else "short sizes"
    head = (
        f"{about['at'][:10]}, version {about['version']}, {kind}, {about['seconds'] / 60:.0f} min; {about['cores']} cores,"
        f" {about['memory_gb']:.0f} GB, {about['system']}, Python {about['python']}, SQLite {about['sqlite']}; a flushed"
        f" append of 4 KiB takes {about['append_ms']:.2f} ms here. The median counts.\n"
    )
    rows = [
        "| case | figure | median | min | max | rounds | bar | held |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in result.figures:
        unit = "" if each.unit == "ratio" else f" {each.unit}"
        middle, low, high = (number(value, each.unit) for value in (each.median, min(each.values), max(each.values)))
        spread = f"{low} | {high}" if len(each.values) > 1 else " | "
        note = f" ({each.note})" if each.note else ""
        rows.append(
            f"| {each.case} | {each.what}{note} | {middle}{unit} | {spread} | {len(each.values)}"
            f" | {bar(each)} | {verdict(each)} |"
        )
    return head + "\n" + "\n".join(row.replace("|  |", "| |") for row in rows) + "\n"


def as_json(result: Result, about: dict[str, Any]) -> str:
    """Return everything, with every value of every round."""
    figures = [{**asdict(each), "median": each.median, "passes": each.passes} for each in result.figures]
    return json.dumps({"about": about, "figures": figures, "costs": [asdict(cost) for cost in result.costs]}, indent=1)


def about_here(*, full: bool, seconds: float, append_ms: float) -> dict[str, Any]:
    """Return what a reader must know about the machine to compare; nothing that tells whose it is."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("cis-dag"),
        "full": full,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "append_ms": append_ms,
    }


def rewrite_block(path: Path, text: str) -> None:
    """Put *text* in place of what stands between the two marks of a document.

    Raises:
        ValueError: the marks are not both there, in this order.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no block between {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
