"""The store as the engine sees it: one port, in parts by concept, and an adapter for each database.

``store.runs``, ``store.queue`` and the others are parts of one store, over one connection: what is done through several
of them inside one ``transaction()`` is done together, or not at all. A function that needs a single part takes that
part.

Rules that hold for every adapter, and that the contract suite in ``tests/store`` checks:

- Every method that writes must be called inside ``transaction()``, which is one durable unit: a power cut after it
  returned loses nothing. Inside it, reads see what it wrote; outside, they see the last committed state.
- ``runs.change``, ``tasks.change`` and ``attempts.finish`` change a row only at the version (or state) that the caller
  read. Otherwise they raise ``StaleVersionError`` and change nothing. They check the arrow as well.
- An object is for one thread; every thread opens its own (``cis.store.open_store``).
- After a StoreRefusedError nothing more can be done in a transaction. It is undone, as a whole or back to the
  ``savepoint()`` around the call; whoever wants to go on makes one first.
- Text is Unicode, and may hold NUL: a task's last words do. An adapter whose database takes none keeps U+FFFD in its
  place; JSON is kept as text, in which a NUL is escaped.

**What a transaction protects.** Callers read, decide and write in one transaction. What such a decision rests on must
not be changed by another transaction before this one commits. SQLite has one lock for all writers, so there it holds
for everything that was read. A database without such a lock needs it where a docstring says so, and no more than that:

- *Holds until the commit*: whoever asks keeps the row, as ``SELECT … FOR UPDATE`` does. A worker's every transaction
  begins with ``workers.check_epoch``, so nobody takes its id over in the middle of one; it may be skipped where ``others_writes`` says that
  nobody else has written since the last transaction.
- *Check, then insert*: what was found missing, or counted, must not appear or grow before the commit. Each of these
  names what an adapter can lock: a row that is there already (a counter, the worker, the tree), or the key itself.

**Waiting for others** is the adapter's: which locks there are, how often it looks again, for how long it pauses. Above
it one may only set how long a transaction waits to begin (``wait_at_most``), ask whether the last one had to
(``waited``), and let others go first (``let_others_in``). A transaction may raise StoreBusyError when it begins, and
then nothing of it was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from cis.errors import PoisonRecordError
from cis.model.dag import DagSpec, check_stored
from cis.model.tree import clipped
from cis.store.cluster_port import Offers, Outbox, Peers, Remotes, Room
from cis.store.queue_port import Events, Queue, Workers
from cis.store.run_port import Attempts, Definitions, Runs, Staged, Tasks
from cis.store.upkeep_port import Audit, Homes, Pruning, Restores, Tokens, Upkeep


class Store(Protocol):
    """Everything that is kept, in parts, behind one transaction."""

    @property
    def definitions(self) -> Definitions: ...

    @property
    def runs(self) -> Runs: ...

    @property
    def tasks(self) -> Tasks: ...

    @property
    def attempts(self) -> Attempts: ...

    @property
    def staged(self) -> Staged: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def workers(self) -> Workers: ...

    @property
    def events(self) -> Events: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def remotes(self) -> Remotes: ...

    @property
    def room(self) -> Room: ...

    @property
    def offers(self) -> Offers: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def audit(self) -> Audit: ...

    @property
    def pruning(self) -> Pruning: ...

    @property
    def restores(self) -> Restores: ...

    @property
    def home(self) -> Homes: ...

    @property
    def upkeep(self) -> Upkeep: ...

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """Begin, and commit when the block ends; roll back when it raises.

        Raises:
            StoreBusyError: others kept it from beginning; at once, unless it may *wait* for them.
        """
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside a transaction: keep or undo one part of it alone, as the block ends or raises."""
        ...

    def others_writes(self) -> int:
        """Return a number that grows with others' commits; inside a transaction, as of its beginning.

        An adapter that cannot tell returns a greater one each time. One in which others can commit while a transaction
        of this connection is open returns a greater one inside each transaction.
        """
        ...

    def wait_at_most(self, seconds: float, *, meanwhile: Callable[[], None] | None = None) -> None:
        """Have every transaction wait no longer than that for others before it begins; StoreBusyError comes then.

        While it waits it calls *meanwhile*, many times a second.
        """
        ...

    @property
    def waited(self) -> bool:
        """Whether the last transaction had to wait for others to begin: something may have happened meanwhile."""
        ...

    def let_others_in(self) -> None:
        """Between two transactions: give way to others who wait to begin one, if they would wait in vain otherwise."""
        ...

    def close(self) -> None:
        """Close the connection. What a transaction wrote that has not ended is undone."""
        ...


def stored_spec(definitions: Definitions, definition_id: int) -> DagSpec:
    """Return the DAG of one stored version.

    Raises:
        PoisonRecordError: the stored document cannot be read.
    """
    return read_spec(definitions.document(definition_id))


def read_spec(dag_json: str) -> DagSpec:
    """Return the DAG that a stored text holds. Raises PoisonRecordError when it holds none."""
    try:
        spec = DagSpec.from_dict(json.loads(dag_json))
        check_stored(spec)
    except (ValueError, RecursionError) as error:
        raise PoisonRecordError("a stored DAG", clipped(str(error), limit=500)) from error
    return spec
