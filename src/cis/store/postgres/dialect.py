"""The statements of ``cis.store.sql`` as PostgreSQL takes them: each is translated once."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
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
