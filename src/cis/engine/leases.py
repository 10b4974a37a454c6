"""The worker's side of a lease: when it has to stop a run that the room granted to this node.

The deadline stands in the store, by two clocks: the wall's, and one that counts from the machine's start, asleep or not
(``ThisNode.uptime_us``), which nobody sets. The nearer one counts. After a reboot, when neither tells how long the
machine was off, it is over. What was read last is remembered, so a store that fails does not prolong it either.

A DAG as a task is held under the lease of the run that it is a task of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cis.engine.times import Instant
from cis.store.cluster import RemoteRun
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.store.run_port import Runs

MAX_PARENTS = 64
STOP_S = 3.0  # between the deadline that a worker sees and the KILL that may be needed: a look and a turn


def margin_s(grace_s: float) -> float:
    """Return how long before its lease is over a holder has to begin to stop."""
    return grace_s + STOP_S


@dataclass(frozen=True, slots=True)
class _Deadline:
    until_us: int
    uptime_us: int

    def left_s(self, now: Instant, uptime_us: int) -> float:
        return min(self.uptime_us - uptime_us, self.until_us - now.wall_us) / 1e6


class Leases:
    """The deadlines of the runs that one worker holds; *margin_s* is how long it may take to stop one."""

    def __init__(
        self, node_id: str, *, margin_s: float, uptime_us: Callable[[], int] = lambda: 0, boot_id: str = ""
    ) -> None:
        self._node_id = node_id
        self._margin_s = margin_s
        self._uptime_us = uptime_us
        self._boot_id = boot_id
        self._known: dict[str, _Deadline] = {}

    def over(self, store: Store, run: RunRecord, *, now: Instant) -> bool:
        """Whether a run is held under a lease that is, or is nearly, over."""
        root = _root(store.runs, run)
        if root is None or root.node_id == self._node_id:
            return False  # accepted here: nobody else has a say
        remote = store.remotes.get(root.run_id)
        if remote is None or remote.lease_until_us is None:
            return False
        known = self._known.get(run.run_id)
        if known is None or known.until_us != remote.lease_until_us:
            known = self._known[run.run_id] = self._deadline(remote, remote.lease_until_us, now)
        return remote.boot_id != self._boot_id or known.left_s(now, self._uptime_us()) <= self._margin_s

    def _deadline(self, remote: RemoteRun, until_us: int, now: Instant) -> _Deadline:
        uptime_us = remote.lease_uptime_us
        if uptime_us is None:  # taken by the program of before, which kept the wall's time alone
            uptime_us = self._uptime_us() + min(max(until_us - now.wall_us, 0), remote.lease_us)
        return _Deadline(until_us, uptime_us)

    def late(self, now: Instant, *, within_s: float | None = None) -> set[str]:
        """Return the runs whose deadline, as it was read last, is nearer than *within_s* (None: than the margin)."""
        if not self._known:
            return set()
        nearest_s, uptime_us = self._margin_s if within_s is None else within_s, self._uptime_us()
        return {run_id for run_id, known in self._known.items() if known.left_s(now, uptime_us) <= nearest_s}

    def forget(self, run_id: str) -> None:
        """Forget a run of which no task runs any more."""
        self._known.pop(run_id, None)


def under_lease(store: Store, run: RunRecord) -> bool:
    """Whether a run is held under a lease."""
    root = _root(store.runs, run)
    remote = store.remotes.get(root.run_id) if root is not None else None
    return remote is not None and remote.epoch > 0


def _root(runs: Runs, run: RunRecord) -> RunRecord | None:
    """Return the run that a run is, at the end, a task of; itself when it is of none."""
    found: RunRecord | None = run
    for _ in range(MAX_PARENTS):
        if found is None or found.parent_run_id is None:
            return found
        found = runs.get(found.parent_run_id)
    return None
