"""The statements of ``cis.store.sql`` as PostgreSQL takes them: each is translated once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from cis.store.postgres.migrate import migrations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_INSERT = re.compile(
    r"(?P<head>INSERT INTO \w+ \((?P<columns>[\w, ]+)\)) VALUES \((?P<places>[?, ]+)\)(?P<rest>( ON CONFLICT .*)?)"
)
_CHANGE = re.compile(r"(UPDATE|DELETE) ")
_COLUMN = re.compile(r"(?:(\w+) = \?|coalesce\(\?, (\w+)\))")
_PLACE = re.compile(r"\?(\d*)")
_WORDS = (
    (re.compile(r"CAST\((\w+) AS BLOB\)"), r"convert_to(\1, 'UTF8')"),
    (re.compile(r" NOT GLOB '\*\[\^ -~\]\*'"), " !~ '[^ -~]'"),
    (re.compile(r" INDEXED BY \w+"), ""),
    (re.compile(r"\(SELECT coalesce\(max\(seq\), 0\) \+ 1 FROM events\)"), "nextval('run_acceptances')"),
)


@lru_cache(maxsize=512)
def translated_sql(sql: str) -> str:
    """Return a statement with ``$1`` for the first value, and PostgreSQL's words."""
    for word, ours in _WORDS:
        sql = word.sub(ours, sql)
    last = 0

    def place(found: re.Match[str]) -> str:
        nonlocal last
        number = int(found[1] or last + 1)  # as SQLite counts: one more than the highest so far
        last = max(last, number)
        return f"${number}"

    return _PLACE.sub(place, sql)


class Batch(NamedTuple):
    """A statement that does for many rows at once what another does for one; its values are a list for each column."""

    sql: str
    keys: tuple[int, ...]  # which values say what row is meant; it takes each row once

    def takes(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Whether each of *rows* means another row of the table."""
        return not self.keys or len({tuple(row[key] for key in self.keys) for row in rows}) == len(rows)


@lru_cache(maxsize=128)
def batch_of(sql: str) -> Batch | None:
    """Return the statement that does for many rows at once what *sql* does for one.

    None where it is none of ``INSERT … VALUES (?, …)``, ``UPDATE`` and ``DELETE`` with ``column = ?`` for each value.
    """
    insert = _INSERT.fullmatch(sql)
    if insert:
        columns = insert["columns"].split(", ")
        if insert["places"].count("?") != len(columns):
            return None
        at_once = f"{insert['head']} SELECT * FROM {_lists(columns)}{insert['rest']}"  # noqa: S608 - a statement of ours
        unique = re.match(r" ON CONFLICT \(([\w, ]+)\)", insert["rest"])
        return Batch(at_once, tuple(map(columns.index, unique[1].split(", "))) if unique else ())
    places = [found[1] or found[2] for found in _COLUMN.finditer(sql)]
    change = _CHANGE.match(sql)
    if change is None or len(places) != sql.count("?"):
        return None
    numbers = count(1)
    one = re.sub(r"\?", lambda _: f"v.c{next(numbers)}", sql)
    names = ", ".join(f"c{number}" for number in range(1, len(places) + 1))
    word = "USING" if change[1] == "DELETE" else "FROM"
    at_once = one.replace(" WHERE ", f" {word} {_lists(places)} AS v ({names}) WHERE ", 1)
    first = sql.partition(" WHERE ")[0].count("?")
    return Batch(at_once, tuple(key for key in range(first, len(places)) if places[key] != "version"))


def _lists(columns: list[str]) -> str:
    kinds = ("bigint" if column in numbers_of_schema() else "text" for column in columns)
    return f"unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(kinds, 1))})"


@lru_cache(maxsize=1)
def numbers_of_schema() -> frozenset[str]:
    """Return the names of all columns that hold a number; one name is of one type in every table."""
    return frozenset(name for _, file in migrations() for name in re.findall(r"(\w+) BIGINT", file.read_text("utf-8")))


def plain(value: Any) -> Any:
    """Return a value as it is sent: no kinds of ours, and no NUL, which no text has there."""
    kind = type(value)
    if kind is str:
        return value.replace("\0", REPLACEMENT) if "\0" in value else value
    if kind is int or value is None:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else value
