"""The store in one SQLite file: a part for each concept, all over one connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cis.errors import NotFoundError, StoreError, StoreGoneError
from cis.store.sqlite.connection import Database

if TYPE_CHECKING:
    from cis.store.sql.attempts import AttemptRows
    from cis.store.sql.definitions import DefinitionRows
    from cis.store.sql.logs import AuditRows, EventRows, TokenRows
    from cis.store.sql.outbox import OutboxRows
    from cis.store.sql.peers import PeerRows
    from cis.store.sql.queue import QueueRows, WorkerRows
    from cis.store.sql.room import OfferRows, RemoteRows, RoomRows
    from cis.store.sql.runs import RunRows
    from cis.store.sql.tasks import StagedRows, TaskRows
    from cis.store.sql.upkeep import HomeRows, PruningRows, RestoreRows
    from cis.store.sqlite.file import StoreFile


class _Part:
    """One part of a store, whose module is loaded when it is first asked for: most commands need three."""

    def __init__(self, module: str, kind: str) -> None:
        self._module = module
        self._kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, store: SqliteStore | None, owner: type) -> Any:
        if store is None:
            return self
        made = getattr(import_module(f"cis.store.{self._module}"), self._kind)(store._db)  # noqa: SLF001 - its own part
        store.__dict__[self._name] = made  # found there from now on
        return made


def _part(module: str, kind: str) -> Any:
    return _Part(module, kind)


class SqliteStore:
    """All parts of the store over one connection; an object is for one thread."""

    definitions: DefinitionRows = _part("sql.definitions", "DefinitionRows")
    runs: RunRows = _part("sql.runs", "RunRows")
    tasks: TaskRows = _part("sql.tasks", "TaskRows")
    attempts: AttemptRows = _part("sql.attempts", "AttemptRows")
    staged: StagedRows = _part("sql.tasks", "StagedRows")
    queue: QueueRows = _part("sql.queue", "QueueRows")
    workers: WorkerRows = _part("sql.queue", "WorkerRows")
    events: EventRows = _part("sql.logs", "EventRows")
    peers: PeerRows = _part("sql.peers", "PeerRows")
    outbox: OutboxRows = _part("sql.outbox", "OutboxRows")
    remotes: RemoteRows = _part("sql.room", "RemoteRows")
    room: RoomRows = _part("sql.room", "RoomRows")
    offers: OfferRows = _part("sql.room", "OfferRows")
    tokens: TokenRows = _part("sql.logs", "TokenRows")
    audit: AuditRows = _part("sql.logs", "AuditRows")
    pruning: PruningRows = _part("sql.upkeep", "PruningRows")
    restores: RestoreRows = _part("sql.upkeep", "RestoreRows")
    home: HomeRows = _part("sql.upkeep", "HomeRows")
    upkeep: StoreFile = _part("sqlite.file", "StoreFile")

    def __init__(self, db: Database) -> None:
        self._db = db
        self.path = db.path

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Take the write lock, and commit when the block ends; roll back when it raises.

        Unless it may *wait*, StoreBusyError comes at once when others have the lock.
        """
        return self._db.transaction(wait=wait)

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others to let go of the write lock; StoreBusyError comes then.

        While it waits it calls *meanwhile* about a thousand times a second.
        """
        self._db.wait_at_most(seconds, meanwhile=meanwhile)

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; inside a transaction, as of its beginning."""
        return self._db.others_writes()

    @property
    def waited(self) -> bool:
        """Whether others had the write lock when the last transaction began."""
        return self._db.waited

    def let_others_in(self) -> None:
        """Leave the write lock to others for longer than any of them pauses before it looks again."""
        self._db.leave_gap()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def open_sqlite(path: Path, *, as_it_is: bool = False) -> SqliteStore:
    """Open the store at *path*; see ``cis.store.open_store``."""
    if as_it_is and not path.exists():
        raise NotFoundError("database", str(path))
    return SqliteStore(Database(path, as_it_is=as_it_is))


def open_sqlite_again(path: Path) -> SqliteStore:
    """Open the store at *path* if it is still there; see ``cis.store.open_store``."""
    try:
        if path.exists():
            return SqliteStore(Database(path))
    except StoreError:
        if path.exists():
            raise
    raise StoreGoneError(str(path))
