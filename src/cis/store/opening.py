"""Opens a store from its address. Nothing but this package knows which databases there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload

from cis.errors import UsageError

if TYPE_CHECKING:
    from cis.store.port import Store
    from cis.store.sqlite.restoring import Restoring
    from cis.store.sqlite.store import SqliteStore


class Adapter(NamedTuple):
    """A kind of store: its engine with the version, and the number of the schema that this program writes there."""

    engine: str
    schema: int


class Shared(NamedTuple):
    """The address of a store that homes may share: ``postgresql://…``, and the home that asks."""

    url: str
    home: Path


class Bells(Protocol):
    """Wakes the other nodes that share a store, after a commit; from any thread, and cheap."""

    def told(self) -> None:
        """Something was stored."""
        ...

    def told_work(self, worker_ids: Iterable[str] = ()) -> None:
        """Something was stored that others may have to do; *worker_ids* are the workers, if they are known."""
        ...

    def close(self) -> None:
        """Hear and tell nothing more."""
        ...


Address = Path | str | Shared
_SHOWN = r"([^:]*://)(?:([^/@:]*)(?::[^/@]*)?@)?([^?]*)"  # as libpq reads it: the user ends at the first @
_SCHEME = r"([a-z][a-z0-9+.-]*):"
_SERVERS = ("postgres://", "postgresql://")


@overload
def open_store(address: Path | str, *, as_it_is: bool = False, again: bool = False) -> SqliteStore: ...


@overload
def open_store(address: Address, *, as_it_is: bool = False, again: bool = False) -> Store: ...


def open_store(address: Address, *, as_it_is: bool = False, again: bool = False) -> Store:
    """Open the store at *address*: a path, ``sqlite:`` and a path, or a database of PostgreSQL.

    It is made, and brought to the newest schema, where needed.
    With *as_it_is* nothing is changed: of an older schema only what ``store.upkeep`` offers is sure to work.
    With *again* it is the one that this program, or the one that started it, has open: no other is made in its place.

    Raises:
        UsageError: no store of this kind is known.
        StoreGoneError: *again*, and it was removed.
        StoreError: it cannot be opened, is damaged, or was written by a newer program (``StoreNewerError``).
        NotFoundError: *as_it_is*, and there is none.
    """
    if isinstance(address, Shared):
        _demand_psycopg()
        from cis.store.postgres.store import open_postgres, open_postgres_again  # noqa: PLC0415 - an extra

        return open_postgres_again(address) if again else open_postgres(address, as_it_is=as_it_is)
    path = _path_of(address)
    from cis.store.sqlite.store import open_sqlite, open_sqlite_again  # noqa: PLC0415 - not every command reads it

    return open_sqlite_again(path) if again else open_sqlite(path, as_it_is=as_it_is)


def kept_node_id(address: Address) -> str | None:
    """Return the node's id as the store at *address* has it; None where there is none, or it is damaged.

    Nothing is changed.

    Raises:
        UsageError: no store of this kind is known.
        StoreError: it cannot be read now.
    """
    if isinstance(address, Shared):
        from cis.store.postgres.home_file import kept_home  # noqa: PLC0415 - an extra

        kept_here = kept_home(address.home)
        return None if kept_here is None else kept_here.node_id
    path = _path_of(address)
    from cis.store.sqlite import kept  # noqa: PLC0415 - not where cis.toml says it

    return kept.kept_node_id(path)


def restoring(address: Address, backup: Path) -> AbstractContextManager[Restoring]:
    """Open a copy of *backup* for a block; when that ends, the copy is in place of the store at *address*.

    If the block raises, nothing has changed. What was there is kept beside it (``Restoring.kept``). Nobody else may use
    either of the two meanwhile.

    Raises:
        UsageError: no store of this kind is known.
        StoreError: *backup* is none, is damaged, or is of a newer program (``StoreNewerError``).
    """
    if isinstance(address, Shared):
        raise UsageError(
            "a store in PostgreSQL is restored by 'pg_restore', with no node running (docs/howto/postgresql.md)"
        )
    path = _path_of(address)
    from cis.store.sqlite.restoring import restoring as restoring_sqlite  # noqa: PLC0415 - one command does so

    return restoring_sqlite(path, backup)


def adapter_of(address: Address) -> Adapter:
    """Return what is known of the kind of store at *address*, which need not be there.

    Raises:
        UsageError: no store of this kind is known.
    """
    if isinstance(address, Shared):
        _demand_psycopg()
        from cis.store.postgres.migrate import NEWEST as NEWEST_THERE  # noqa: PLC0415 - an extra

        return Adapter(engine="PostgreSQL", schema=NEWEST_THERE)
    _path_of(address)
    import apsw  # noqa: PLC0415 - as above

    from cis.store.sqlite.migrate import NEWEST  # noqa: PLC0415

    return Adapter(engine=f"SQLite {apsw.sqlite_lib_version()}", schema=NEWEST)


def open_bells(address: Address, heard: Callable[[frozenset[str] | None], None]) -> Bells | None:
    """Return the bells between the nodes that share the store at *address*; None where a store has one node.

    *heard* is called, in a thread of the bells, when another node has stored something: with the ids of the workers
    that have something to do, as far as they were named, and with None when nothing is to be done.
    """
    if not isinstance(address, Shared):
        return None
    from cis.store.postgres.bells import PostgresBells  # noqa: PLC0415 - an extra
    from cis.store.postgres.connection import address_of  # noqa: PLC0415

    return PostgresBells(address_of(address.url, text=shown(address)), heard)


def _demand_psycopg() -> None:
    from importlib.util import find_spec  # noqa: PLC0415 - for those who have such a store

    if find_spec("psycopg") is None:
        raise UsageError("a store in PostgreSQL needs the extra 'postgres': pip install 'cis-dag[postgres]'")


def is_server(text: str) -> bool:
    """Whether a text is the address of a database server that is known."""
    return text.lower().startswith(_SERVERS)


def shown(address: Address) -> str:
    """Return an address as messages name it: of a server its scheme, user, place and name, and so no password."""
    if not isinstance(address, Shared):
        return str(address)
    found = re.match(_SHOWN, address.url)
    return "" if found is None else f"{found[1]}{found[2] + '@' if found[2] else ''}{found[3]}"


def _path_of(address: Path | str) -> Path:
    if isinstance(address, Path):
        return address
    scheme = re.match(_SCHEME, address, re.IGNORECASE)
    if scheme is None:
        return Path(address)
    if scheme[1].lower() != "sqlite":
        raise UsageError(f"{scheme[1]}: is not a kind of store that is known; write a path, or 'sqlite:' and a path")
    return Path(address[scheme.end() :].removeprefix("//"))
