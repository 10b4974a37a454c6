"""Tasks that are waits: they hold no process and no slot, whichever skill plans them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cis.engine import accept, run
from cis.engine.accept.control import cancel, pause, resume
from cis.engine.observe.views import read_run
from cis.engine.ports import ChildDag, Command, Wait
from cis.errors import LaunchError
from cis.model.states import AttemptState, RunState, TaskState
from cis.skills.registry import InstalledSkills
from cis.store.records import QueueState
from tests.worlds.deciding import SECOND_US, Decider, decider
from tests.worlds.looping import Worker, working
from tests.worlds.skills import Brought, WithSkills

INNER = {"dag_id": "inner", "tasks": [{"id": "i", "command": "true"}]}
NESTS = Brought("nests", lambda _: ChildDag(document=INNER), waits=True)


def found(params: Mapping[str, Any]) -> Wait:
    """Wait until a file is there; its text is the output."""
    path = Path(params["path"])
    return Wait(ask=lambda: {"text": path.read_text()} if path.exists() else None, every_s=2.0)


def broken() -> Mapping[str, str]:
    """Fail as a stranger's skill might."""
    raise KeyError("surprise")


def refused() -> Mapping[str, str]:
    """Fail with a reason."""
    raise LaunchError("the answer was no")


SLEEPS = Brought("sleeps", lambda params: Wait(for_s=params["for"]), waits=True)
AWAITS = Brought("awaits", found, waits=True)
ODD: Mapping[str, Wait] = {
    "broken": Wait(ask=broken),
    "refused": Wait(ask=refused),
    "bad name": Wait(ask=lambda: {"a b": "x"}),
    "nothing": Wait(),
    "two": Wait(for_s=1.0, until_us=5),
}
ASKS = Brought("asks", lambda params: ODD[params["what"]], waits=True)


@contextmanager
def waiting(folder: Path) -> Iterator[tuple[Decider, Worker]]:
    """Return a node that has the skills, and its worker."""
    with decider(folder) as node:
        node.skills = WithSkills(NESTS, SLEEPS, AWAITS, ASKS)
        with working(node, folder) as worker:
            yield node, worker


def sleeps(for_s: float, **fields: Any) -> dict[str, Any]:
    """Return a task that waits for some seconds."""
    return {"command": None, "skill": "sleeps", "params": {"for": for_s}, **fields}


def awaits(path: Path, **fields: Any) -> dict[str, Any]:
    """Return a task that waits until a file is there."""
    return {"command": None, "skill": "awaits", "params": {"path": str(path)}, **fields}


def waits(worker: Worker, run_id: str, task_id: str = "t0") -> None:
    """Wait until a task waits."""
    worker.until(lambda: worker.task(run_id, task_id).status is TaskState.RUNNING, "the wait to begin")
    worker.turn()


def completed(worker: Worker, run_id: str, task_id: str = "t0") -> bool:
    """Return whether a task is completed after some turns."""
    for _ in range(3):
        worker.turn()
    return worker.task(run_id, task_id).status is TaskState.COMPLETED


def test_the_engine_names_no_skill() -> None:
    names = {info.name for info in InstalledSkills().infos()}
    folders = [Path(str(package.__file__)).parent for package in (accept, run)]
    named = [
        f"{path.name}:{node.lineno}"
        for folder in folders
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]

    assert named == []


def test_a_skill_of_a_package_may_plan_a_dag_which_takes_no_slot_although_nobody_knew_it_before(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        node.skills = WithSkills(NESTS)
        with working(node, tmp_path) as worker:
            node.skills = WithSkills(NESTS)  # the worker's own was not asked yet
            nested = {"command": None, "skill": "nests"}
            first = node.submitted(nested, target_node="node-1", max_parallel=1)
            worker.until(lambda: node.store.runs.children(first.run_id), "its child run")

            assert worker.attempts(first.run_id) == [(1, AttemptState.RUNNING)]
            assert len(worker.loop._held.live) == 0


def test_a_skill_that_plans_a_process_although_it_waits_fails_its_task_with_the_reason(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        node.skills = WithSkills(Brought("lies", lambda _: Command(argv=("true",)), waits=True))
        with working(node, tmp_path) as worker:
            found = node.submitted({"command": None, "skill": "lies"}, target_node="node-1")
            worker.until(lambda: worker.task(found.run_id).status is TaskState.FAILED, "its end")

            assert "planned a process" in str(worker.task(found.run_id).error)


def test_a_wait_runs_without_process_or_slot_and_ends_at_its_moment(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        many = [sleeps(60.0) for _ in range(8)]  # twice as many as there are slots
        one = node.submitted(*many, target_node="node-1", max_parallel=1)
        waits(worker, one.run_id, "t7")
        view = read_run(node.store, one.run_id)
        early = completed(worker, one.run_id)
        node.later(61)
        on_time = completed(worker, one.run_id)

        assert worker.pids == []
        assert {task["status"] for task in view["tasks"]} == {"running"}
        assert {task["waiting"]["reason"] for task in view["tasks"]} == {view["waiting"]["reason"]} == {"wait"}
        assert view["waiting"]["until"] == view["tasks"][0]["waiting"]["until"]
        assert view["tasks"][0]["retry_at"] is None
        assert (early, on_time) == (False, True)
        assert node.run(one.run_id).status is RunState.COMPLETED


def test_the_loop_sleeps_until_the_moment_that_is_known(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        one = node.submitted(sleeps(0.25), target_node="node-1")
        waits(worker, one.run_id)
        now_s = worker.loop._parts.clock().mono_s

        assert worker.loop._held.next_due_s() - now_s == pytest.approx(0.25, abs=1e-3)
        assert worker.loop._wait_s(10.0) <= 0.25


def test_a_wait_ends_when_its_skill_says_so_and_what_follows_has_its_outputs(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        after = {"command": 'test "$TEXT" = here', "env": {"TEXT": "${tasks.t0.outputs.text}"}, "depends_on": ["t0"]}
        one = node.submitted(awaits(tmp_path / "file"), after, target_node="node-1")
        waits(worker, one.run_id)
        view = read_run(node.store, one.run_id)
        (tmp_path / "file").write_text("here")
        soon = completed(worker, one.run_id)
        node.later(2)
        worker.until(lambda: node.run(one.run_id).status is RunState.COMPLETED, "its end")

        assert (view["tasks"][0]["waiting"]["reason"], view["tasks"][0]["waiting"]["until"]) == ("wait", None)
        assert not soon
        assert worker.task(one.run_id).outputs == {"text": "here"}


@pytest.mark.parametrize("orderly", [True, False])
def test_a_wait_goes_on_in_another_worker_and_ends_when_it_was_to(tmp_path: Path, *, orderly: bool) -> None:
    with waiting(tmp_path) as (node, first):
        one = node.submitted(sleeps(60.0), awaits(tmp_path / "file"), target_node="node-1")
        waits(first, one.run_id, "t1")
        stored = first.task(one.run_id).due_at_us
        if orderly:
            first.loop.stop()
            first.loop.hand_back()
        node.later(50)
        node.skills = WithSkills(SLEEPS, AWAITS)
        with working(node, tmp_path) as worker:
            early = completed(worker, one.run_id)
            (tmp_path / "file").write_text("here")
            node.later(11)
            worker.until(lambda: node.run(one.run_id).status is RunState.COMPLETED, "its end")

            assert stored == one.created_at_us + 60 * SECOND_US or stored is not None
            assert not early
            assert worker.attempts(one.run_id) == [(1, AttemptState.COMPLETED), (1, AttemptState.COMPLETED)]


@pytest.mark.parametrize("kind", ["sleeps", "awaits"])
def test_the_time_limit_of_a_wait_fails_it(tmp_path: Path, kind: str) -> None:
    with waiting(tmp_path) as (node, worker):
        task = sleeps(60.0, timeout=30.0) if kind == "sleeps" else awaits(tmp_path / "file", timeout=30.0)
        one = node.submitted(task, target_node="node-1")
        waits(worker, one.run_id)
        node.later(31)
        worker.until(lambda: worker.task(one.run_id).status is TaskState.FAILED, "its end")

        assert worker.task(one.run_id).error == "timed out after 30 s"


def test_a_cancel_ends_a_wait_and_a_pause_does_not_stop_it(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        ended = node.submitted(sleeps(60.0), {"depends_on": ["t0"]}, target_node="node-1")
        held = node.submitted(sleeps(60.0), {"depends_on": ["t0"]}, target_node="node-1")
        waits(worker, ended.run_id)
        waits(worker, held.run_id)
        with node.store.transaction():
            cancel(node.store, ended.run_id, now_us=node.now_us)
            pause(node.store, held.run_id, now_us=node.now_us)
        node.later(1)
        worker.until(lambda: node.run(ended.run_id).status is RunState.CANCELLED, "its end")
        node.later(61)
        over = completed(worker, held.run_id)
        paused = worker.task(held.run_id, "t1").status
        with node.store.transaction():
            resume(node.store, held.run_id, now_us=node.now_us)
        node.later(1)
        worker.until(lambda: node.run(held.run_id).status is RunState.COMPLETED, "its end")

        assert worker.attempts(ended.run_id) == [(1, AttemptState.CANCELLED)]
        assert (over, paused) == (True, TaskState.PENDING)


def test_a_run_that_only_waits_is_parked_and_comes_back_at_the_moment(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        one = node.submitted(sleeps(60.0), target_node="node-1")
        waits(worker, one.run_id)
        worker.until(lambda: worker.loop.resting, "the worker to have nothing to do")
        assert worker.loop.put_away()
        parked = worker.queued(one.run_id)
        early = node.store.queue.any_due("node-1", now_us=node.now_us + 59 * SECOND_US)
        node.later(61)
        with node.store.transaction():
            node.store.queue.wake_due("node-1", now_us=node.now_us, limit=10)
        worker.until(lambda: node.run(one.run_id).status is RunState.COMPLETED, "its end")

        assert (parked, early) == (QueueState.PARKED, False)
        assert worker.attempts(one.run_id) == [(1, AttemptState.COMPLETED)]


def test_the_end_of_a_wait_survives_a_transaction_that_fails(tmp_path: Path) -> None:
    with waiting(tmp_path) as (node, worker):
        one = node.submitted(awaits(tmp_path / "file"), target_node="node-1")
        waits(worker, one.run_id)
        (tmp_path / "file").write_text("here")
        node.later(2)
        worker.forget_plans()
        (tmp_path / "file").unlink()
        worker.until(lambda: node.run(one.run_id).status is RunState.COMPLETED, "its end")

        assert worker.attempts(one.run_id) == [(1, AttemptState.COMPLETED)]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("broken", "surprise"),
        ("refused", "the answer was no"),
        ("bad name", "outputs"),
        ("nothing", "one of"),
        ("two", "one of"),
    ],
)
def test_whatever_a_skill_answers_becomes_the_end_of_its_task(tmp_path: Path, what: str, why: str) -> None:
    with waiting(tmp_path) as (node, worker):
        one = node.submitted({"command": None, "skill": "asks", "params": {"what": what}}, target_node="node-1")
        worker.until(lambda: worker.task(one.run_id).status is TaskState.FAILED, "its end")

        assert why in str(worker.task(one.run_id).error)
