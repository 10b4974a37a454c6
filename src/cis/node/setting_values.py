"""How values of settings are read, from TOML or from a variable; each reader raises ValueError with what is wrong."""

from __future__ import annotations

import os
import re
from typing import Any

from cis.model.durations import exact_duration, parse_duration
from cis.model.ids import id_fault
from cis.store.opening import is_server
from cis.transports.address import read_address

_SIZE = r"\s*([0-9]+)\s*(B|KiB|MiB|GiB|KB|MB|GB)?\s*"  # each is made when it is asked for
_MATRIX_USER = r"@[^:\s]{1,200}:[^\s/]{1,200}"
_MATRIX_ROOM = r"![^\s]{1,254}"
UNBOUNDED = "all"
_SIZES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def nonempty(value: Any) -> str:
    """Return a string that is not empty. Raises ValueError, which says what is wrong."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string, and not empty")
    return value


def store_address(value: Any) -> str:
    """Return where the store is: ``sqlite``, which is the home's own, or a server. Raises ValueError."""
    if isinstance(value, str) and (value == "sqlite" or is_server(value)):
        return value
    raise ValueError("must be 'sqlite' or an address as 'postgresql://user@host:5432/name'")


def utf8(raw: Any) -> Any:
    """Return *raw*, unless it is text from a variable or an argument whose bytes are not UTF-8. Raises ValueError."""
    if isinstance(raw, str) and not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{os.fsencode(raw).decode(errors='backslashreplace')} is not UTF-8") from error
    return raw


def identifier(value: Any) -> str:
    """Return an id. Raises ValueError, which says what is wrong."""
    text = nonempty(value)
    fault = id_fault(text)
    if fault:
        raise ValueError(fault)
    return text


def whole(value: Any, *, lowest: int, highest: int) -> int:
    """Return a whole number between two. Raises ValueError, which says what is wrong."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
        raise ValueError(f"must be a whole number from {lowest} to {highest}, not {value!r}")
    return number


def port(value: Any) -> int:
    """Return a port; 0 is any free one. Raises ValueError, which says what is wrong."""
    return whole(value, lowest=0, highest=65535)


def address(value: Any) -> str:
    """Return an address, without a slash at its end. Raises ValueError, which says how one is written."""
    return read_address(nonempty(value))


def matrix_user(value: Any) -> str:
    """Return a Matrix user id. Raises ValueError, which says how one is written."""
    text = nonempty(value)
    if not re.fullmatch(_MATRIX_USER, text):
        raise ValueError(f"{text!r} is not a Matrix user; write @name:example.org")
    return text


def room(value: Any) -> str:
    """Return the id of a room. Raises ValueError, which says what is wrong."""
    text = nonempty(value)
    if not re.fullmatch(_MATRIX_ROOM, text):
        raise ValueError(f"{text!r} is not a room id, which begins with '!'; 'cis room setup' makes a room")
    return text


def count(value: Any) -> int:
    """Return a number from 1. Raises ValueError, which says what is wrong."""
    return whole(value, lowest=1, highest=1_000_000)


def recursion(value: Any) -> int:
    """Return how often a DAG may contain itself. Raises ValueError, which says what is wrong."""
    from cis.engine.this_node import MAX_DEPTH  # noqa: PLC0415 - 10 ms, for those who set it

    return whole(value, lowest=0, highest=MAX_DEPTH)


def nice(value: Any) -> int:
    """Return by how much something comes after others. Raises ValueError, which says what is wrong."""
    return whole(value, lowest=0, highest=19)


def duration(value: Any) -> float:
    """Return seconds. Raises ValueError, which says what is wrong."""
    return parse_duration(value)


def positive_duration(value: Any) -> float:
    """Return seconds, one at least. Raises ValueError, which says what is wrong."""
    seconds = parse_duration(value)
    if seconds < 1:
        raise ValueError(f"must be at least 1 s, not {value!r}")
    return seconds


def age(value: Any) -> float | None:
    """Return seconds, None for no bound. Raises ValueError, which says what is wrong."""
    return None if value == UNBOUNDED else positive_duration(value)


def runs(value: Any) -> int | None:
    """Return a number from 1, None for no bound. Raises ValueError, which says what is wrong."""
    return None if value == UNBOUNDED else count(value)


def lease(value: Any) -> float:
    """Return the seconds of a lease in the room. Raises ValueError, which says what is wrong."""
    seconds = parse_duration(value)
    if not 10 <= seconds <= 86400:
        raise ValueError(f"must be from 10s to 1d, not {value!r}")
    return seconds


def size(value: Any) -> int:
    """Return bytes. Raises ValueError, which says what is wrong."""
    match = re.fullmatch(_SIZE, str(value), re.IGNORECASE) if not isinstance(value, bool) else None
    if match is None or not int(match[1]):
        raise ValueError(f"{value!r} is not a size; write 500KiB, 100MiB or 1GiB")
    return int(match[1]) * _SIZES[(match[2] or "B").lower()]


def truth(value: Any) -> bool:
    """Return true or false. Raises ValueError, which says what is wrong."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in known:
        raise ValueError(f"must be true or false, not {value!r}")
    return known[str(value).lower()]


def texts(value: Any) -> tuple[str, ...]:
    """Return strings, from a list or parted by commas. Raises ValueError, which says what is wrong."""
    items = [item for item in value.split(",") if item] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) and item for item in items):
        raise ValueError("must be a list of strings")
    if any("," in item for item in items):
        raise ValueError("must be a list of strings without commas, which part them in a variable")
    return tuple(items)


def written(value: Any) -> str:
    """Return a value as the reader of its option takes it."""
    if value is None:
        return UNBOUNDED
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return exact_duration(value).rstrip("0").rstrip(".")  # never 1e-05, which nobody writes and nothing here reads
    return str(value).lower() if isinstance(value, bool) else str(value)
