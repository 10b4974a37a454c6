"""What lets a run in: who asks for it, whether its scope has a place for it, and which runs it is below.

A scope may bound its runs (``max_runs``). A run that finds no place is ``waiting`` in the queue, where no worker takes
it. It is queued when another run of its scope is over: by the worker that ended that one, in the same transaction, or
within a second by the supervisor. From then until it is over it keeps its place, also while it is paused or waits.

A run that is a task of another needs no place: its parent holds one for both, or they could wait for each other for
ever. It acts for whoever asked for its parent, may not repeat the name of a DAG above it too often, and a task that
finds the queue full is tried again after ``AGAIN_S``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cis.engine.leases import MAX_PARENTS
from cis.engine.this_node import ThisNode
from cis.errors import DocumentError, Fault, OverloadedError, ScopeForbiddenError
from cis.model.scope import Scope, parse_worker_id
from cis.model.scope_rules import Patterns, allows, in_common, listed
from cis.store.cluster import RemoteRole
from cis.store.port import Store
from cis.store.queue_port import Queue
from cis.store.records import QueueState, RunRecord
from cis.store.run_port import Runs

AT_ONCE = 1000

AGAIN_S = 1.0
_NO_PLACE = "waits for a place: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """What whoever hands a DAG in may use: some ``scopes`` (None: all). ``name`` is for messages alone.

    Who it was, for the audit log, is a ``cis.app.actor.Actor``.

    With ``shares`` no more than a share of the queue is for them.
    """

    name: str = "the owner"
    scopes: Patterns | None = None
    shares: bool = False

    def check(self, scope: Scope) -> None:
        """Raise ScopeForbiddenError unless DAGs of *scope* may be run for this asker."""
        if not allows(self.scopes, scope):
            raise ScopeForbiddenError(str(scope), asker=self.name, allowed=listed(self.scopes))


OWNER = Asker()


def state_of_new(queue: Queue, scope: Scope, *, this_node: ThisNode, below: bool) -> QueueState:
    """Return how a new run of *scope* comes into the queue; in the transaction that puts it there."""
    most = this_node.rules_of(scope).max_runs
    if most is None or below or queue.admitted_count(this_node.node_id, scope.worker_id, at_most=most) < most:
        return QueueState.QUEUED
    return QueueState.WAITING


def let_in(queue: Queue, worker_id: str, *, this_node: ThisNode) -> None:
    """Queue as many waiting runs of a worker's scope as there are places for, the most urgent first."""
    most = this_node.rules_of(parse_worker_id(worker_id)).max_runs
    free = AT_ONCE if most is None else most - queue.admitted_count(this_node.node_id, worker_id, at_most=most)
    if free > 0:
        queue.admit(this_node.node_id, worker_id, limit=free)


def lineage(runs: Runs, run: RunRecord) -> list[RunRecord]:
    """Return *run*, what it is a task of, and so on to its root on this node."""
    found = [run]
    while found[-1].parent_run_id is not None and len(found) < MAX_PARENTS:
        parent = runs.get(found[-1].parent_run_id)
        if parent is None:
            break
        found.append(parent)
    return found


def names_above(runs: Runs, run: RunRecord) -> tuple[str, ...]:
    """Return the DAGs over a run, from the root of its tree down, those on the node that sent it too."""
    line = lineage(runs, run)
    return (*line[-1].above, *(one.dag_id for one in reversed(line[1:])))


def check_recursion(line: Sequence[RunRecord], dag_id: str, *, this_node: ThisNode) -> None:
    """Raise DocumentError when a run would start a DAG by its name that it is, or that stands above it, once too often.

    *line* is the run and what it is a task of, as ``lineage`` has it. Nothing in a document ends such a circle, so only
    the node's owner can say that one is meant. A document that is written out within another is no circle, whatever its
    id: it is smaller than what it stands in.
    """
    above = [*line[-1].above, *(one.dag_id for one in reversed(line))]
    if above.count(dag_id) > this_node.max_recursion:
        fault = (
            f"DAG {dag_id!r} would start itself: {' -> '.join([*above, dag_id])}; break the circle, or have the node's "
            f"owner allow as many rounds as it needs ([queue] max_recursion, now {this_node.max_recursion})"
        )
        raise DocumentError([Fault(place="params.dag_id", message=fault)])


def asker_of_child(store: Store, run: RunRecord, root: RunRecord) -> Asker:
    """Return who asks when *run* starts a DAG: it may use the scopes that its own asker had, and still has.

    A node that handed the *root* in may have been trusted with fewer scopes since.
    """
    scopes = run.scopes
    remote = store.remotes.get(root.run_id)
    if remote is not None and remote.role is RemoteRole.RECEIVED:
        peer = store.peers.get(remote.peer_id)
        scopes = in_common(scopes, () if peer is None else peer.scopes)
    return Asker(name=f"run {run.run_id}", scopes=scopes)


def no_place(error: OverloadedError) -> str:
    """Return what is said of a task whose DAG finds no place now."""
    return f"{_NO_PLACE}{error.what}"


def is_no_place(error: str | None) -> bool:
    """Whether an error says that a place is waited for."""
    return error is not None and error.startswith(_NO_PLACE)
