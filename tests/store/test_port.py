"""The port is small enough to be written again for another database, and says all that its adapters offer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_type_hints

import pytest

from cis.errors import NotFoundError, UsageError
from cis.store import kept_node_id, open_store
from cis.store.port import Store
from cis.store.sqlite.store import SqliteStore

SRC = Path(__file__).parents[2] / "src" / "cis"
MOST = 153  # with the parameters of runs, and tasks that are added to them


def public(kind: type) -> dict[str, object]:
    """Return what a class offers, with what it has from the classes that it is made of."""
    offered = {name: value for part in reversed(kind.__mro__) for name, value in vars(part).items()}
    return {name: value for name, value in offered.items() if not name.startswith("_") and value is not None}


PARTS: dict[str, type] = {
    name: get_type_hints(value.fget)["return"]
    for name, value in public(Store).items()
    if isinstance(value, property) and name != "waited"
}
METHODS = {f"{part}.{name}" for part, kind in PARTS.items() for name in public(kind)}
OWN = set(public(Store)) - set(PARTS)


def named(path: Path) -> Iterator[str]:
    """Yield what a module looks up, as ``runs.change``: the last two names of each attribute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield ".".join(ast.unparse(node).split(".")[-2:])


def test_the_port_is_small() -> None:
    assert len(METHODS) + len(OWN) <= MOST


def test_each_method_of_the_port_is_called() -> None:
    """Not by the store itself, nor by tests alone."""
    called = {name for path in SRC.rglob("*.py") if path.parent.parent.name != "store" for name in named(path)}

    assert METHODS - called == set()
    assert OWN - {name.rpartition(".")[2] for name in called} == set()


def test_an_adapter_offers_what_the_port_says_and_no_more(store: SqliteStore) -> None:
    offered = {f"{part}.{name}" for part in PARTS for name in public(type(getattr(store, part)))}

    assert offered == METHODS
    assert set(public(SqliteStore)) - set(PARTS) == OWN


def test_each_method_says_what_it_does() -> None:
    silent = [
        f"{part}.{name}" for part, kind in PARTS.items() for name, method in public(kind).items() if not method.__doc__
    ]

    assert silent == []


@pytest.mark.parametrize("address", ["{}/cis.db", "sqlite:{}/cis.db", "sqlite://{}/cis.db", "SQLite:{}/cis.db"])
def test_an_address_is_a_path_or_says_which_database(tmp_path: Path, address: str) -> None:
    store = open_store(address.format(tmp_path))
    store.close()

    assert (tmp_path / "cis.db").exists()
    assert kept_node_id(address.format(tmp_path)) is None


def test_an_address_of_no_known_database_is_refused_and_says_which_are() -> None:
    with pytest.raises(UsageError, match="oracle: is not a kind of store that is known; write a path, or 'sqlite:'"):
        open_store("oracle://db/cis")


def test_a_store_that_is_opened_as_it_is_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_store(tmp_path / "cis.db", as_it_is=True)


def test_a_store_says_whether_others_were_waited_for(tmp_path: Path) -> None:
    one, other = open_store(tmp_path / "cis.db"), open_store(tmp_path / "cis.db")
    held = ExitStack()
    held.enter_context(one.transaction())
    other.wait_at_most(10.0, meanwhile=held.close)
    with other.transaction():
        late = other.waited
    with other.transaction():
        at_once = other.waited
    one.close()
    other.close()

    assert (late, at_once) == (True, False)
