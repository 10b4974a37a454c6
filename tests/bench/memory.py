"""The case ``memory``: what is resident of a node and a worker, idle and while they run a DAG as large as one can be."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.bench.documents import layered, one
from tests.bench.figures import Figure, Plan, Result
from tests.bench.homes import LIVE_WORKERS, completed_s, connected, reading, run_ended, wait_until
from tests.bench.spawning import SLOWEST_TASKS_PER_S
from tests.worlds.harness import Sandbox

NODE_MB = 90.0
WORKER_MB = 45.0
PEAK_MB = 350.0
SAMPLE_S = 0.05
MEGABYTE = 1e6


def resident_mb(pid: int, *, peak: bool = False) -> float:
    """Return the resident size of a process in megabytes (10^6 bytes), now or at its highest; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    name = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) * 1024 / MEGABYTE for line in lines if line.startswith(name)), 0.0)


class Sampler:
    """Looks at several processes together, again and again, and keeps the highest sum."""

    def __init__(self, pids: list[int]) -> None:
        self.peak_mb = 0.0
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.peak_mb = max(self.peak_mb, sum(map(resident_mb, self._pids)))


def memory(plan: Plan) -> Result:
    """Measure a node and its worker, both idle, then the two together while they run 100,000 tasks (shorter: 10,000)."""
    count = plan.size(10_000, 100_000)
    sandbox = plan.sandbox("memory")
    with sandbox.node() as node, connected(node) as client, reading(sandbox) as database:
        node_pid = node.process.pid
        run_ended(database, client.execute(one("first")), timeout_s=30)
        worker_pid = _worker(sandbox)
        idle = [resident_mb(node_pid), resident_mb(worker_pid)]
        sampler = Sampler([node_pid, worker_pid])
        try:
            run_id = client.execute(layered(count))
            run_ended(database, run_id, timeout_s=60 + count / SLOWEST_TASKS_PER_S)
        finally:
            sampler.close()
        completed_s(sandbox, run_id)
        peaks = [resident_mb(pid, peak=True) for pid in (node_pid, worker_pid)]
        after = [resident_mb(pid) for pid in (node_pid, worker_pid)]
    tasks = f"{count:,} tasks"
    return Result(
        [
            _figure("node, idle", idle[0], NODE_MB),
            _figure("worker, idle", idle[1], WORKER_MB),
            _figure(f"node and worker together, peak of {tasks}", sampler.peak_mb, PEAK_MB),
            _figure(f"node, peak of {tasks}", peaks[0]),
            _figure(f"worker, peak of {tasks}", peaks[1]),
            _figure(f"node, after {tasks}", after[0]),
            _figure(f"worker, after {tasks}", after[1]),
        ]
    )


def _worker(sandbox: Sandbox) -> int:
    found = wait_until(lambda: sandbox.rows(LIVE_WORKERS), timeout_s=30, what="a worker")
    return int(found[0][1])


def _figure(what: str, megabytes: float, at_most: float | None = None) -> Figure:
    return Figure(case="memory", what=what, unit="MB", values=(megabytes,), at_most=at_most)
