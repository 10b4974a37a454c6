"""What a run is a task of, up to its root on this node, and what follows from that for the runs that it starts."""

from __future__ import annotations

from collections.abc import Sequence

from cis.engine.asker import Asker
from cis.engine.leases import MAX_PARENTS
from cis.engine.site import Site
from cis.errors import DocumentError, Fault
from cis.model.scope_patterns import in_common
from cis.store.cluster import RemoteRole
from cis.store.port import Store
from cis.store.records import RunRecord


def lineage(store: Store, run: RunRecord) -> list[RunRecord]:
    """Return *run*, what it is a task of, and so on to its root on this node."""
    found = [run]
    while found[-1].parent_run_id is not None and len(found) < MAX_PARENTS:
        parent = store.run(found[-1].parent_run_id)
        if parent is None:
            break
        found.append(parent)
    return found


def names_above(store: Store, run: RunRecord) -> tuple[str, ...]:
    """Return the DAGs over a run, from the root of its tree down, those on the node that sent it too."""
    line = lineage(store, run)
    return (*line[-1].above, *(one.dag_id for one in reversed(line[1:])))


def check_recursion(line: Sequence[RunRecord], dag_id: str, *, site: Site) -> None:
    """Raise DocumentError when a run would start a DAG by its name that it is, or that stands above it, once too often.

    *line* is the run and what it is a task of, as ``lineage`` has it. Nothing in a document ends such a circle, so only
    the node's owner can say that one is meant. A document that is written out within another is no circle, whatever its
    id: it is smaller than what it stands in.
    """
    above = [*line[-1].above, *(one.dag_id for one in reversed(line))]
    if above.count(dag_id) > site.max_recursion:
        fault = (
            f"DAG {dag_id!r} would start itself: {' -> '.join([*above, dag_id])}; break the circle, or have the node's "
            f"owner allow as many rounds as it needs ([queue] max_recursion, now {site.max_recursion})"
        )
        raise DocumentError([Fault(place="params.dag_id", message=fault)])


def asker_of_child(store: Store, run: RunRecord, root: RunRecord) -> Asker:
    """Return who asks when *run* starts a DAG: it may use the scopes that its own asker had, and still has.

    A node that handed the *root* in may have been trusted with fewer scopes since.
    """
    scopes = run.scopes
    remote = store.remote_run(root.run_id)
    if remote is not None and remote.role is RemoteRole.RECEIVED:
        peer = store.peer(remote.peer)
        scopes = in_common(scopes, () if peer is None else peer.scopes)
    return Asker(name=f"run {run.run_id}", scopes=scopes)
