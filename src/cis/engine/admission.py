"""How many runs of one scope are let in at once, where its table says so (``max_runs``).

A run that finds no place is ``waiting`` in the queue, where no worker takes it, and is queued when another of its scope is over: by
the worker that ended it, in the same transaction, or within a second by the supervisor, whoever ended it. It has its
place from then on, paused or waiting for whatever, until it is over. A run that is a task of another needs none: its parent holds
one for both, or they could wait for each other for ever.
"""

from __future__ import annotations

from cis.engine.site import Site
from cis.model.scope import Scope, parse_worker_id
from cis.store.port import Store
from cis.store.records import QueueState

AT_ONCE = 1000


def state_of_new(store: Store, scope: Scope, *, site: Site, below: bool) -> QueueState:
    """Return how a new run of *scope* comes into the queue; in the transaction that puts it there."""
    most = site.rules_of(scope).max_runs
    if most is None or below or store.admitted_count(site.node_id, scope.worker_id, at_most=most) < most:
        return QueueState.QUEUED
    return QueueState.WAITING


def let_in(store: Store, worker_id: str, *, site: Site) -> None:
    """Queue as many waiting runs of a worker's scope as there are places for, the most urgent first."""
    most = site.rules_of(parse_worker_id(worker_id)).max_runs
    free = AT_ONCE if most is None else most - store.admitted_count(site.node_id, worker_id, at_most=most)
    if free > 0:
        store.admit(site.node_id, worker_id, limit=free)
