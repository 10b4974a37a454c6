"""How fast a layered DAG of ``true`` tasks runs, beside how fast this machine can start ``sh -c true`` at all.

    python tests/bench/layered.py [--tasks 1000] [--rounds 5] [--bar 0.5] [--dir DIR] [--json]

Each round measures the limit and the product in turn, so that the machine's other load falls on both; the figure
is the ratio. The limit keeps two processes in flight, the product its default slots and every promise: each state on
disk before the next, a log file for each stream, one worker process. Ends with status 1 if the median is under the bar.

The home lies in ~/.cache, near to where a real one does, has seen one run before the first that counts, and is deleted at
the end: for some minutes ext4 takes up to twenty times as long to make a file where many were deleted (0.4 ms instead of
0.02 ms was seen in /tmp).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import apsw

LAYERS = 10


@dataclass(frozen=True, slots=True)
class Round:
    """Rates of one round, in tasks a second."""

    bare: float
    product: float

    @property
    def ratio(self) -> float:
        """The part of the machine's limit that the product reaches."""
        return self.product / self.bare


def bare_rate(count: int) -> float:
    """Start *count* times ``sh -c true``, two in flight, and return starts a second."""
    started_s = time.perf_counter()
    flying: list[int] = []
    for _ in range(count):
        flying.append(os.posix_spawn("/bin/sh", ["sh", "-c", "true"], os.environ))
        if len(flying) == 2:
            os.waitpid(flying.pop(0), 0)
    for pid in flying:
        os.waitpid(pid, 0)
    return count / (time.perf_counter() - started_s)


def layered(count: int) -> dict[str, object]:
    """Return a DAG of *count* tasks in layers, each task after two of the layer before."""
    width = max(1, count // LAYERS)
    tasks: list[dict[str, object]] = []
    for number in range(count):
        task: dict[str, object] = {"id": f"t{number}", "command": "true"}
        if number >= width:
            above = number - width
            task["depends_on"] = sorted({f"t{above}", f"t{above - above % width + (above + 1) % width}"})
        tasks.append(task)
    return {"dag_id": "layered", "tasks": tasks}


def product_rate(count: int, home: Path) -> float:
    """Run the layered DAG and return tasks a second, from the run's start to its end."""
    path = home / "layered.json"
    path.write_text(json.dumps(layered(count)))
    done = subprocess.run(
        [sys.executable, "-m", "cis", "dag", "run", str(path), "--json"],
        env={**os.environ, "CIS_HOME": str(home)},
        check=True,
        capture_output=True,
    )
    run_id = json.loads(done.stdout)["run_id"]
    connection = apsw.Connection(str(home / "cis.db"))
    run = "SELECT status, finished_at_us - started_at_us FROM dag_runs WHERE run_id = ?"
    status, took_us = connection.execute(run, (run_id,)).fetchone() or ("missing", 0)
    tasks = "SELECT count(*) FROM run_tasks WHERE status = 'completed' AND run_id = ?"
    completed = connection.execute(tasks, (run_id,)).fetchone()
    connection.close()
    if status != "completed" or completed != (count,):
        raise SystemExit(f"the run is {status}, with {completed} tasks done")
    return float(count / (int(took_us) / 1e6))


def main() -> int:
    """Measure, print, and compare with the bar."""
    parser = argparse.ArgumentParser(description="layered DAG against bare spawning")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bar", type=float, default=0.5)
    parser.add_argument("--dir", type=Path, default=Path.home() / ".cache", help="where the homes lie")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cis-bench-", dir=options.dir) as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        product_rate(options.tasks, home)  # not counted: a home is seldom new
        rounds = [Round(bare_rate(options.tasks), product_rate(options.tasks, home)) for _ in range(options.rounds)]
    ratios = [one.ratio for one in rounds]
    median = statistics.median(ratios)
    if options.json:
        result = {"tasks": options.tasks, "median": median, "min": min(ratios), "max": max(ratios), "ratios": ratios}
        print(json.dumps(result))
    else:
        print(f"layered, {options.tasks} tasks, {options.rounds} rounds")
        for one in rounds:
            print(f"  bare {one.bare:7.0f}/s   cis {one.product:7.0f}/s   ratio {one.ratio:.2f}")
        print(f"ratio: median {median:.2f}, min {min(ratios):.2f}, max {max(ratios):.2f}; bar {options.bar:.2f}")
    return 0 if median >= options.bar else 1


if __name__ == "__main__":
    sys.exit(main())
