"""What a run is a task of, up to its root on this node, and what follows from that for the runs that it starts."""

from __future__ import annotations

from cis.engine.asker import Asker
from cis.engine.leases import MAX_PARENTS
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
