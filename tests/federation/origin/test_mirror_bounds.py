"""What another node tells of a run costs its origin a bounded disk, whatever it tells and however often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.engine.outputs import MAX_RUN_OUTPUT_BYTES, size_of
from cis.errors import MalformedMessageError
from cis.federation.origin import mirror
from cis.federation.records import MAX_LOG_BYTES
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import RunRecord
from tests.worlds.reporting import Pair, packed
from tests.worlds.rows import attempts_of
from tests.worlds.serving import node_under_test

MIB = 2**20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Give the test both nodes."""
    (tmp_path / "origin").mkdir()
    (tmp_path / "executor").mkdir()
    with node_under_test(tmp_path / "origin") as origin, node_under_test(tmp_path / "executor") as executor:
        yield Pair(origin, executor)


def run_told(version: int, status: RunState = RunState.RUNNING) -> dict[str, Any]:
    """Return what a report says of its run."""
    return {
        "version": version,
        "status": str(status),
        "worker_id": "worker-global",
        "started_at_us": 5,
        "finished_at_us": 9 if status.final else None,
        "error": None,
        "cancel_requested": False,
    }


def task_told(number: int, *, version: int, status: TaskState = TaskState.RUNNING, **fields: Any) -> dict[str, Any]:
    """Return what a report says of a task."""
    return {
        "no": number,
        "id": f"t{number}",
        "status": str(status),
        "version": version,
        "attempts": 1,
        "failures": 0,
        "outputs": {},
        **fields,
    }


def attempt_told(number: int, attempt: int, **fields: Any) -> dict[str, Any]:
    """Return what a report says of an attempt."""
    return {
        "no": number,
        "id": f"t{number}",
        "attempt": attempt,
        "status": str(AttemptState.FAILED),
        "epoch": 1,
        "started_at_us": 5,
        "stdout_tail": "",
        "stderr_tail": "",
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        **fields,
    }


def kept_bytes(pair: Pair, run: RunRecord) -> int:
    """Return what the files of a run take at its origin."""
    return sum(path.stat().st_size for path in pair.origin.logfiles.folder(run.run_id).rglob("*") if path.is_file())


def flood(pair: Pair, run: RunRecord, *, reports: int) -> None:
    """Tell of attempt after attempt, with as much log as a report may have."""
    pair.hear(run, {"run": run_told(2), "tasks": [task_told(0, version=2)], "attempts": [], "logs": []})
    for number in range(1, reports + 1):
        piece = {"no": 0, "attempt": number, "stream": "out", "offset": 0, "data": packed(bytes(MAX_LOG_BYTES))}
        long = "x" * 10_000
        attempt = attempt_told(0, number, error=long, stdout_tail=long)
        pair.hear(run, {"run": run_told(2), "tasks": [], "attempts": [attempt], "logs": [piece]})


def test_logs_and_attempts_of_one_run_are_bounded_together_and_the_run_says_so_when_it_is_over(pair: Pair) -> None:
    run = pair.handed_over({"id": "t0"})
    most = mirror.MAX_REPORTED_OF_A_RUN + mirror.MAX_REPORTED_OF_A_TASK
    flood(pair, run, reports=30)
    end = task_told(0, version=9, status=TaskState.COMPLETED, attempts=40, error="y" * 60_000)
    applied = pair.hear(run, {"run": run_told(9, RunState.COMPLETED), "tasks": [end], "attempts": [], "logs": []})

    assert most <= kept_bytes(pair, run) <= most + MAX_LOG_BYTES
    assert len(attempts_of(pair.origin.store, run.run_id)) == kept_bytes(pair, run) // MAX_LOG_BYTES
    assert applied.run.status is RunState.COMPLETED
    assert "node-2 has them" in str(applied.run.error)
    assert len(str(pair.task(run, "t0").error)) == mirror.SHORT_ERROR


def test_what_is_told_again_is_counted_once(pair: Pair) -> None:
    run = pair.handed_over({"id": "t0"})
    flood(pair, run, reports=1)
    once = pair.remote(run).reported_bytes
    for _ in range(30):
        flood(pair, run, reports=1)

    assert once > MAX_LOG_BYTES
    assert pair.remote(run).reported_bytes == once


@pytest.mark.parametrize("where", ["attempts", "logs"])
def test_attempts_that_a_task_which_is_over_never_had_are_refused(pair: Pair, where: str) -> None:
    run = pair.handed_over({"id": "t0"}, {"id": "t1"})
    end = task_told(0, version=3, status=TaskState.FAILED, attempts=2)
    two = [attempt_told(0, 1), attempt_told(0, 2)]
    pair.hear(run, {"run": run_told(2), "tasks": [end], "attempts": two, "logs": []})
    piece = {"no": 0, "attempt": 3, "stream": "out", "offset": 0, "data": packed(b"x")}
    third = {"attempts": [attempt_told(0, 3)], "logs": []} if where == "attempts" else {"attempts": [], "logs": [piece]}

    with pytest.raises(MalformedMessageError, match="attempt 3 of a task that had fewer"):
        pair.hear(run, {"run": run_told(2), "tasks": [], **third})
    assert len(attempts_of(pair.origin.store, run.run_id)) == 2


def test_attempts_far_beyond_what_a_task_has_had_so_far_are_refused(pair: Pair) -> None:
    run = pair.handed_over({"id": "t0"})
    near, far = attempt_told(0, mirror.MAX_AHEAD), attempt_told(0, mirror.MAX_AHEAD + 2)
    pair.hear(run, {"run": run_told(2), "tasks": [], "attempts": [near], "logs": []})

    with pytest.raises(MalformedMessageError, match="that had fewer"):
        pair.hear(run, {"run": run_told(2), "tasks": [task_told(0, version=2)], "attempts": [far], "logs": []})


def test_outputs_that_another_node_tells_are_bounded_for_the_run_and_the_others_are_left_out(pair: Pair) -> None:
    run = pair.handed_over(*({"id": f"t{number}"} for number in range(20)))
    value = {"v": "ü" * (MIB // 2)}  # which takes three times as much as it is stored
    for number in range(20):
        one = task_told(number, version=3, status=TaskState.COMPLETED, outputs=value)
        pair.hear(run, {"run": run_told(2), "tasks": [one], "attempts": [], "logs": []})

    tasks = pair.origin.store.tasks.of_run(run.run_id)
    kept = [task for task in tasks if task.outputs]
    assert len(kept) == MAX_RUN_OUTPUT_BYTES // size_of(value)
    assert all("output their paths" in str(task.error) for task in tasks if not task.outputs)
    assert all(task.status is TaskState.COMPLETED for task in tasks)
