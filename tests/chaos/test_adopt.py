"""KILL of workers, of nodes and of both, while tasks with ``on_lost: adopt`` run: each runs once, to its end, and nothing is left.

A kill may come between a start that is stored and the process that is to make it; that attempt is lost, and never began. So what is
counted is what the tasks themselves leave behind: each has begun once, has ended once, and its log and its outputs are whole.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cis.executors.attempt_folder import AttemptFolders
from cis.node.home import Home
from tests.chaos.besieged import Besieged, besieged
from tests.worlds.battery import LONG, figures, first_seed, size
from tests.worlds.waiting import wait_for

KILLS = int(os.environ.get("CIS_KILLS", size(3, 200)))
LEASE_S = 2.0
OPEN_RUNS = size(2, 4)
LONGEST_PAUSE_S = 0.4 if LONG else 0.12  # of a task, between two of its nine lines
WAYS = ("worker", "node", "both")

_TASK = """
id=$CIS_RUN_ID.$CIS_TASK_ID
( set -C; : > "{marks}/began.$id.$CIS_ATTEMPT" ) 2>/dev/null || : > "{marks}/twice.$id.$CIS_ATTEMPT"
exec 9>>"{marks}/lock.$id"
flock -n 9 || : > "{marks}/overlap.$id.$CIS_ATTEMPT"
for line in 1 2 3 4 5 6 7 8 9; do echo "line $line"; sleep {pause} 9>&-; done
echo "said=$CIS_TASK_ID $CIS_ATTEMPT" >> "$CIS_OUTPUT"
: > "{marks}/done.$id.$CIS_ATTEMPT"
"""
_LOG = "".join(f"line {number}\n" for number in range(1, 10))


def document(place: Besieged, chance: random.Random) -> Mapping[str, Any]:
    """Return a DAG of three tasks that go on without a worker, the last after the others."""
    tasks = [
        {
            "id": task_id,
            "command": _TASK.format(marks=place.marks, pause=f"{chance.uniform(0.01, LONGEST_PAUSE_S):.3f}"),
            "depends_on": ["a", "b"] if task_id == "c" else [],
            "on_lost": "adopt",
            "max_losses": 0,
        }
        for task_id in "abc"
    ]
    return {"dag_id": f"proj-{chance.choice('xy')}-lasts", "tasks": tasks}


def submit(place: Besieged, chance: random.Random, key: str) -> str:
    """Hand in one DAG, again and again until there is an answer, and return its run."""
    wanted, deadline_s = document(place, chance), time.monotonic() + 120.0
    while time.monotonic() < deadline_s:
        node = wait_for(place.reach, timeout_s=60, what="a node that listens")
        assert node is not None
        with suppress(OSError, http.client.HTTPException):
            answer = node.execute(wanted, **{"Idempotency-Key": key})
            if answer.status != 503:
                return str(answer.body["run_id"])
    raise AssertionError(f"{key} was never taken")


def kill(place: Besieged, way: str) -> bool:
    """Kill a worker, the node, or the node with all of its workers; return whether there was one."""
    workers = place.workers()
    if way != "node" and not workers:
        return False
    if way == "both":
        for pid in workers:  # or they would see the end of their node, and stop in good order
            _send(pid, signal.SIGSTOP)
    if way != "worker":
        place.kill_node()
    for pid in workers[:1] if way == "worker" else workers if way == "both" else ():
        _send(pid, signal.SIGKILL)
    if way != "worker":
        place.start_node()
    return True


def check(place: Besieged, runs: Mapping[str, str]) -> None:
    """Each task of each run began once, and ended once, with its whole log and its outputs."""
    tasks = {(run_id, task_id) for run_id in runs.values() for task_id in "abc"}
    states = dict(place.sandbox.rows("SELECT run_id, status FROM dag_runs"))
    assert states == dict.fromkeys(runs.values(), "completed")
    assert place.marked("twice") == place.marked("overlap") == set()
    began = Counter((run_id, task_id) for run_id, task_id, _ in place.marked("began"))
    assert began == dict.fromkeys(tasks, 1), {task: count for task, count in began.items() if count != 1}
    completed = place.attempts("status = 'completed'")
    assert completed == place.marked("done")
    assert {(run_id, task_id) for run_id, task_id, _ in completed} == tasks
    numbers = dict(zip("abc", range(3), strict=True))
    outputs = {(run_id, task_id): json.loads(text) for run_id, task_id, text in place.sandbox.rows(_OUTPUTS)}
    for run_id, task_id, attempt in completed:
        log = place.home / "logs" / run_id / f"{numbers[task_id]}.{attempt}.out"
        assert log.read_text() == _LOG
        assert outputs[run_id, task_id] == {"said": f"{task_id} {attempt}"}
    assert AttemptFolders(Home(place.home).attempts).handles() == []


_OUTPUTS = "SELECT run_id, task_id, outputs FROM run_tasks WHERE outputs IS NOT NULL"


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.mark.timeout(3600)
def test_whatever_is_killed_a_task_that_goes_on_runs_once_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    seed = first_seed()
    chance, began_s = random.Random(seed), time.monotonic()  # noqa: S311 - chance that can be repeated
    place, runs, kills = besieged(tmp_path / "home", lease_s=LEASE_S), dict[str, str](), Counter[str]()
    place.start_node()
    try:
        while kills.total() < KILLS:
            while not runs or place.unfinished() < OPEN_RUNS:
                key = f"k{len(runs)}"
                runs[key] = submit(place, chance, key)
            wait_for(place.reach, timeout_s=60, what="a node that listens")
            wait_for(lambda: place.workers() or not place.unfinished(), timeout_s=60, what="a worker")
            time.sleep(chance.uniform(0.0, 0.8))
            way = WAYS[kills.total() % len(WAYS)]
            kills[way] += kill(place, way)
        wait_for(lambda: not place.unfinished(), timeout_s=180, what="the end of every run")
        wait_for(place.reach, timeout_s=60, what="the node")
        handles = AttemptFolders(Home(place.home).attempts).handles
        wait_for(lambda: not handles(), timeout_s=30, what="nothing to be kept")
        assert place.stop() == 0
        place.check_nothing_is_left()
        check(place, runs)
    finally:
        place.end_everything()
    figures(
        "adopt",
        seed=seed,
        seconds=round(time.monotonic() - began_s),
        kills=kills.total(),
        **dict(kills),
        tasks=3 * len(runs),
        never_begun=len(place.attempts("status = 'lost'")),
        run_twice=0,
        left_behind=0,
    )
