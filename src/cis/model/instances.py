"""Many tasks from one: what the instances of a task with ``foreach`` or ``matrix`` are, and how each is called.

Without values of a run in it: ``items_of`` takes lists in which references have been filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from cis.model.dag import Json
from cis.model.many import EXCLUDE, INCLUDE, MAX_INSTANCES
from cis.model.references import text_of
from cis.model.tree import Path

MAX_ITEMS_BYTES = 4 * 2**20  # of JSON, of all items of one task
MAX_KEY = 120  # characters
ITEM, MATRIX = "item", "matrix"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,32}")


MADE_OF = ("foreach", "matrix")  # the fields that make many of one


class Instance(NamedTuple):
    """One of the tasks that one is made into: its ``key``, as in ``convert[key]``, and what it is given."""

    key: str
    given: Mapping[str, Json]


def of_list(items: Json) -> list[Instance]:
    """Return an instance for each item. Raises ValueError, which says what *items* is instead of a list, or too much."""
    if not isinstance(items, list):
        raise ValueError(f"must be a list, not {_kind(items)}")
    _check_count(len(items))
    return [Instance(key, {ITEM: item}) for key, item in zip(_keys([(item,) for item in items]), items, strict=True)]


def of_matrix(matrix: Mapping[str, Json]) -> list[Instance]:
    """Return an instance for each combination of a matrix, less ``exclude``, and what ``include`` adds.

    As GitHub Actions has it: an entry of ``include`` is added to every combination of which it changes no value that
    the lists gave; where there is none, it is a combination of its own.

    Raises:
        ValueError: a part is not what it has to be, or there are too many.
    """
    lists = {name: values for name, values in matrix.items() if name not in (INCLUDE, EXCLUDE)}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise ValueError(f"{name} must be a list, not {_kind(values)}")
    _check_count(prod(map(len, lists.values())) if lists else 0)
    found: list[dict[str, Json]] = (
        [dict(zip(lists, one, strict=True)) for one in product(*lists.values())] if lists else []
    )
    excluded = _entries(matrix, EXCLUDE)
    found = [one for one in found if not any(_agrees(one, entry) for entry in excluded)]
    base = [dict(one) for one in found]
    for entry in _entries(matrix, INCLUDE):
        fitting = [place for place, one in enumerate(base) if _fits(one, entry)]
        for place in fitting:
            found[place].update(entry)
        if not fitting:
            found.append(dict(entry))
    _check_count(len(found))
    named = [
        tuple(one[name] for name in lists) if place < len(base) else tuple(one.values())
        for place, one in enumerate(found)
    ]
    return [Instance(key, {MATRIX: one}) for key, one in zip(_keys(named), found, strict=True)]


def _entries(matrix: Mapping[str, Json], name: str) -> Sequence[Mapping[str, Json]]:
    entries = matrix.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{name} must be a list of mappings")
    _check_count(len(entries))
    return entries


def _agrees(one: Mapping[str, Json], entry: Mapping[str, Json]) -> bool:
    return all(name in one and one[name] == value for name, value in entry.items())


def _fits(one: Mapping[str, Json], entry: Mapping[str, Json]) -> bool:
    """Whether an entry shares a value of a combination's lists, and changes none."""
    shared = [name for name in entry if name in one]
    return all(one[name] == entry[name] for name in shared)


def _check_count(count: int) -> None:
    if count > MAX_INSTANCES:
        raise ValueError(f"makes {count:,} instances; {MAX_INSTANCES:,} at most")


def _keys(values: Sequence[Sequence[Json]]) -> list[str]:
    """Return the keys of instances: their values, where these are short, plain and distinct, else their places."""
    keys = []
    for several in values:
        texts = [text_of(value) for value in several if not isinstance(value, dict | list) and value is not None]
        if len(texts) != len(several) or not texts or not all(map(_PLAIN.fullmatch, texts)):
            break
        keys.append(",".join(texts))
    if len(keys) == len(values) == len(set(keys)) and all(len(key) <= MAX_KEY for key in keys):
        return keys
    return [str(place) for place in range(len(values))]


def _kind(value: Json) -> str:
    names = ((bool, "true or false"), (dict, "an object"), (str, "text"), (int | float, "a number"))
    return (
        "null" if value is None else next((name for kind, name in names if isinstance(value, kind)), "something else")
    )


def is_many(task: Mapping[str, Json]) -> bool:
    """Whether a task of a document is made into many."""
    return any(task.get(name) is not None for name in MADE_OF)


def matrix_names(task: Mapping[str, Json]) -> list[str]:
    """Return the names that the matrix of a task in a document gives values, as far as they are written there."""
    matrix = task.get("matrix")
    if not isinstance(matrix, dict):
        return []
    entries = matrix.get(INCLUDE)
    more = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [
        str(name)
        for name in {**matrix, **{name: 1 for entry in more for name in entry}}
        if name not in (INCLUDE, EXCLUDE)
    ]


def many_faults(here: Path, task: Mapping[str, Json]) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong between the fields of a task that make many of it."""
    if not is_many(task):
        for name in ("max_parallel", "fail_fast"):
            if task.get(name) is not None:
                yield (*here, name), "goes with foreach or matrix, which make many tasks of one"
        return
    if task.get("foreach") is not None and task.get("matrix") is not None:
        yield here, "has both foreach and matrix; a matrix of one name is a list"
    matrix = task.get("matrix")
    if isinstance(matrix, dict) and all(isinstance(part, list) for part in matrix.values()):
        try:
            of_matrix(matrix)
        except ValueError as error:
            yield (*here, "matrix"), str(error)
