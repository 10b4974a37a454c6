"""A store over one connection: a part for each concept, which every database has alike but where its adapter says so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cis.store.sql.attempts import AttemptRows
    from cis.store.sql.database import Database
    from cis.store.sql.definitions import DefinitionRows
    from cis.store.sql.logs import AuditRows, EventRows, TokenRows
    from cis.store.sql.outbox import OutboxRows
    from cis.store.sql.peers import PeerRows
    from cis.store.sql.queue import QueueRows, WorkerRows
    from cis.store.sql.room import OfferRows, RemoteRows, RoomRows
    from cis.store.sql.runs import RunRows
    from cis.store.sql.tasks import StagedRows, TaskRows
    from cis.store.sql.upkeep import PruningRows, RestoreRows


class _Part:
    """One part of a store, whose module is loaded when it is first asked for: most commands need three."""

    def __init__(self, module: str, kind: str) -> None:
        self._module = module
        self._kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, store: SqlStore | None, owner: type) -> Any:
        if store is None:
            return self
        made = getattr(import_module(f"cis.store.{self._module}"), self._kind)(store._db)  # noqa: SLF001 - its own part
        store.__dict__[self._name] = made  # found there from now on
        return made


def part(module: str, kind: str) -> Any:
    """Return a part of a store, as a class names it: a module below ``cis.store``, and the class there."""
    return _Part(module, kind)


class SqlStore:
    """The parts that every database has, over one connection; an object is for one thread."""

    definitions: DefinitionRows = part("sql.definitions", "DefinitionRows")
    runs: RunRows = part("sql.runs", "RunRows")
    tasks: TaskRows = part("sql.tasks", "TaskRows")
    attempts: AttemptRows = part("sql.attempts", "AttemptRows")
    staged: StagedRows = part("sql.tasks", "StagedRows")
    queue: QueueRows = part("sql.queue", "QueueRows")
    workers: WorkerRows = part("sql.queue", "WorkerRows")
    events: EventRows = part("sql.logs", "EventRows")
    peers: PeerRows = part("sql.peers", "PeerRows")
    outbox: OutboxRows = part("sql.outbox", "OutboxRows")
    remotes: RemoteRows = part("sql.room", "RemoteRows")
    room: RoomRows = part("sql.room", "RoomRows")
    offers: OfferRows = part("sql.room", "OfferRows")
    tokens: TokenRows = part("sql.logs", "TokenRows")
    audit: AuditRows = part("sql.logs", "AuditRows")
    pruning: PruningRows = part("sql.upkeep", "PruningRows")
    restores: RestoreRows = part("sql.upkeep", "RestoreRows")

    def __init__(self, db: Database) -> None:
        self._db = db

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Begin, and commit when the block ends; roll back when it raises.

        Unless it may *wait*, StoreBusyError comes at once when others keep it from beginning.
        """
        return self._db.transaction(wait=wait)

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone."""
        return self._db.savepoint()

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait no longer than that for others; StoreBusyError comes then. *meanwhile* is called as the wait allows."""
        self._db.wait_at_most(seconds, meanwhile=meanwhile)

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; inside a transaction, as of its beginning."""
        return self._db.others_writes()

    @property
    def waited(self) -> bool:
        """Whether the last transaction had to wait for others to begin."""
        return self._db.waited

    def let_others_in(self) -> None:
        """Between two transactions: leave others who wait to begin one the time for it."""
        self._db.leave_gap()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
