"""Tables: aligned, and on a terminal no wider than it is.

What does not fit is told shorter where a cell has a short form (a run's id, a time); then empty columns are left out, the
last column is wrapped, and the widest others are cut, with ``…``. Where no terminal shows it, nothing is shortened.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from cis.cli.output import local_time, short_time, state

GAP = 2
NOTHING = "-"
NARROWEST = (8, 4, 2)  # a column that is cut, before any other is cut more
NARROWEST_LAST = 24  # the last column, before others are cut for it


class Forms(NamedTuple):
    """One value in two forms, the short one for where the long one has no room; neither is ever cut."""

    long: str
    short: str


def time_cell(text: str | None) -> Forms:
    """Return an RFC 3339 time as a cell: the local time, whole or without its year, to the minute."""
    return Forms(local_time(text), short_time(text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a header, in columns as wide as their widest value."""
    for line in table_lines(header, rows, width=terminal_width()):
        print(line)


def terminal_width() -> int | None:
    """Return how wide the terminal is that shows standard output; None where none does."""
    return terminal_size()[0] if sys.stdout.isatty() else None


def terminal_size() -> tuple[int, int]:
    """Return the columns and the lines of the terminal that shows standard output."""
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except OSError:  # somebody else's stream, in a test
        columns, lines = 0, 0
    return columns or 80, lines or 24


def table_lines(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None, wrap: bool = True
) -> list[str]:
    """Return the lines of a table in *width* columns; without *wrap* each row is one line."""
    texts = [[name.upper() for name in header], *([_cell(value, short=False) for value in row] for row in rows)]
    widths = _widths(texts)
    if width is not None and _total(widths) > width:
        texts = [texts[0], *([_cell(value, short=True) for value in row] for row in rows)]
        if _total(_widths(texts)) > width:  # what says nothing goes first
            said = [column for column in range(len(header)) if any(row[column] != NOTHING for row in texts[1:])]
            texts = [[row[column] for column in said] for row in texts]
            rows = [[row[column] for column in said] for row in rows]
        whole = {column for row in rows for column, value in enumerate(row) if isinstance(value, Forms)}
        widths = _fitted(_widths(texts), width, whole=whole)
    lines = []
    for number, row in enumerate(texts):
        lines += _row_lines(row, widths, wrap=wrap, coloured=number > 0)
    return lines


def _widths(texts: Sequence[Sequence[str]]) -> list[int]:
    return [max(columns_of(text) for text in column) for column in zip(*texts, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _fitted(widths: list[int], width: int, *, whole: set[int]) -> list[int]:
    """Return widths that fit: the last column gives first, then the widest others, but none of *whole*."""
    fitted, last = list(widths), len(widths) - 1
    if last not in whole:
        fitted[last] = max(min(NARROWEST_LAST, fitted[last]), fitted[last] - max(0, _total(fitted) - width))
    for least in NARROWEST:
        while (over := _total(fitted) - width) > 0:
            free = [column for column in range(len(fitted)) if column not in whole and fitted[column] > least]
            if not free:
                break
            widest = max(free, key=lambda column: (column != last, fitted[column]))
            second = max((fitted[column] for column in free if column not in (widest, last)), default=least)
            fitted[widest] = max(least, min(fitted[widest] - 1, max(second, fitted[widest] - over)))
    return fitted


def _row_lines(row: Sequence[str], widths: Sequence[int], *, wrap: bool, coloured: bool) -> list[str]:
    cells = [_cut(text, width) for text, width in zip(row[:-1], widths[:-1], strict=True)]
    last = _wrapped(row[-1], widths[-1]) if wrap else [_cut(row[-1], widths[-1])]
    padded = [
        state(text, width) if coloured and text.isascii() else text + " " * (width - columns_of(text))
        for text, width in zip(cells, widths[:-1], strict=True)
    ]
    between = " " * GAP
    first = between.join([*padded, state(last[0]) if coloured else last[0]]).rstrip()
    indent = " " * (_total(widths) - widths[-1])
    return [first, *(indent + more for more in last[1:])]


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most *width* columns, broken at spaces where it can be."""
    lines: list[str] = []
    while columns_of(text) > width:
        fits = _beginning(text, width)
        cut = fits.rfind(" ")
        cut = cut if cut > 0 else len(fits)
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text.rstrip()] if text or not lines else lines


def _cut(text: str, width: int) -> str:
    return text if columns_of(text) <= width else _beginning(text, width - 1) + "…"


def _beginning(text: str, width: int) -> str:
    if text.isascii():
        return text[: max(1, width)]
    end, used = 0, 0
    while end < len(text) and (used := used + columns_of(text[end])) <= width:
        end += 1
    return text[: max(1, end)]


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - few texts need it

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def _cell(value: Any, *, short: bool) -> str:
    """Return a value as text that a terminal only shows: somebody else may have chosen it."""
    if isinstance(value, Forms):
        value = value.short if short else value.long
    text = NOTHING if value is None or value == "" else str(value)
    text = " ".join(text.split()) if "\n" in text else text  # a message of several lines, in one
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
