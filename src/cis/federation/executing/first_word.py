"""What a node that starts asks before it goes on with the runs of others.

A run that was accepted here before may have been cancelled or paused at its origin meanwhile, whether it had begun or
waited for its turn. Its worker is started only when the origin has answered the first report (``cis.federation.executing.reporter``), or the room was read up to now; but
no later than ``WAIT_S``, and at once when the origin cannot be reached: a node works without the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from cis.store.cluster import RemoteRole
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.store.run_port import Runs

log = logging.getLogger(__name__)

WAIT_S = 3.0
MOST = 1_000  # runs whose origins are waited for


class FirstWord:
    """Which workers wait for an origin's word. Its methods may be called from any thread."""

    def __init__(self, store: Store, *, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._until_s = clock_s() + WAIT_S
        self._lock = threading.Lock()
        self._waiting: dict[str, Collection[str]] = {}  # the workers of each run, and of what it has started
        self._through_room: set[str] = set()
        pushed_by = {peer.node_id for peer in store.peers.all() if peer.url is not None}
        for remote in store.remotes.open(RemoteRole.RECEIVED)[:MOST]:
            run = store.runs.get(remote.run_id)
            if run is None or run.status.final:
                continue
            self._waiting[run.run_id] = _workers(store.runs, run)
            if remote.epoch or remote.peer_id not in pushed_by:
                self._through_room.add(run.run_id)

    def holds(self, worker_id: str) -> bool:
        """Whether a worker is not to be started yet."""
        if not self._waiting:
            return False
        with self._lock:
            if self._clock_s() < self._until_s:
                return any(worker_id in workers for workers in self._waiting.values())
            late, self._waiting = self._waiting, {}
        log.info("origins that do not answer are not waited for any longer", extra={"runs": sorted(late)})
        return False

    def heard(self, run_id: str) -> bool:
        """Note that an origin was asked about a run by push; return whether anything waited for that."""
        with self._lock:
            return run_id not in self._through_room and self._waiting.pop(run_id, None) is not None

    def room_read(self) -> bool:
        """Note that the room was read up to now; return whether anything waited for that."""
        with self._lock:
            found = [self._waiting.pop(run_id, None) for run_id in self._through_room]
            self._through_room.clear()
        return any(found)


def _workers(runs: Runs, run: RunRecord) -> Collection[str]:
    """Return the workers of a run and of the runs below it."""
    found, workers = [run], set[str]()
    while found and len(workers) < MOST:
        one = found.pop()
        workers.add(one.worker_id)
        found += [child for child in runs.children(one.run_id) if not child.status.final]
    return workers
