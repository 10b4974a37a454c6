"""What is prepared ahead of time is what would have been made in time, and only what cannot change meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cis.engine.logfiles import LogFiles
from cis.engine.ports import Command, Launch
from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.plan import RunPlan
from cis.engine.run.spawning import LaunchCache
from cis.model.dag import TaskSpec
from cis.model.states import AttemptState
from cis.store.records import AttemptRecord
from tests.worlds import rows
from tests.worlds.plans import NOW, plan_of, task
from tests.worlds.skills import OneSkill

ATTEMPT = rows.attempt("r", task_id="a")


def shell(params: Any) -> Command:
    """Do what the skill ``shell`` does."""
    return Command(("/bin/sh", "-c", str(params.get("command"))))


class CountingMaker(AttemptMaker):
    """A maker that remembers what it was asked for."""

    def launch(self, plan: RunPlan, number: int, attempt: AttemptRecord) -> Launch:
        asked.append((attempt.task_id, attempt.attempt))
        return super().launch(plan, number, attempt)


asked: list[tuple[str, int]] = []


@pytest.fixture
def maker(tmp_path: Path) -> CountingMaker:
    asked.clear()
    return CountingMaker(
        skills=OneSkill(shell),
        logfiles=LogFiles(tmp_path),
        base_env={"PATH": "/bin"},
        node_id="n",
        worker_id="w",
        workdir=tmp_path,
    )


def started(plan: RunPlan) -> AttemptRecord:
    """Start the next task of a plan and return its attempt."""
    number = plan.start_next(NOW)
    now = plan.tasks[number]
    return ATTEMPT._replace(task_no=number, task_id=now.task_id, attempt=now.attempts)


def test_what_waits_for_the_running_task_alone_is_made_while_that_runs_and_once(maker: CountingMaker) -> None:
    plan = plan_of(task("a"), task("b", "a", env={"X": "1"}))
    launches = LaunchCache(maker)
    first = started(plan)
    launches.foresee(plan, first)
    assert asked == [("b", 1)]

    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    second = started(plan)
    launch = launches.make(plan, second)

    assert asked == [("b", 1)]
    assert launch == maker.launch(plan, 1, second)


def test_it_is_not_the_launch_of_another_attempt_nor_of_another_task(maker: CountingMaker) -> None:
    plan = plan_of(task("a", max_retries=1), task("b", "a"))
    launches = LaunchCache(maker)
    launches.foresee(plan, started(plan))
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0)
    plan.release_retries(NOW._replace(mono_s=NOW.mono_s + 3600))
    again = started(plan)

    assert launches.make(plan, again).env["CIS_ATTEMPT"] == "2"
    assert launches.make(plan, again._replace(task_no=1, task_id="b", attempt=2)).env["CIS_ATTEMPT"] == "2"
    assert asked == [("b", 1), ("a", 2), ("b", 2)]


LATER = {
    "it is given secrets, which may change": task("b", "a", secrets={"X": "token"}),
    "its skill decides when it starts": TaskSpec(id="b", skill="strange", depends_on=("a",)),
    "it waits for another as well": task("b", "a", "c"),
}


@pytest.mark.parametrize("why", LATER)
def test_nothing_is_made_ahead_where(maker: CountingMaker, why: str) -> None:
    plan = plan_of(task("a"), LATER[why], task("c"))
    LaunchCache(maker).foresee(plan, started(plan))

    assert asked == []


def test_one_that_refers_to_outputs_is_made_when_they_are_there(maker: CountingMaker) -> None:
    plan = plan_of(task("a"), task("b", "a", env={"X": "${tasks.a.outputs.x}"}))
    launches = LaunchCache(maker)
    launches.foresee(plan, started(plan))
    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0, outputs={"x": "late"})

    assert launches.make(plan, started(plan)).env["X"] == "late"
