"""The decisions of a run plan: what starts, what is skipped, tried again, cancelled, and when a run is over."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.engine.run.plan import RunPlan
from cis.engine.times import Instant
from cis.errors import IllegalStateError
from cis.model.dag import OnLost, TaskSpec
from cis.model.states import AttemptState, Outcome, RunState, TaskState
from cis.store.records import TaskLoss
from tests.worlds.plans import NOW, placed, plan_of, states, task


def test_a_task_starts_only_when_all_it_depends_on_completed() -> None:
    plan = plan_of(task("a"), task("b"), task("c", "a", "b"))

    assert [plan.start_next(NOW), plan.start_next(NOW)] == [0, 1]
    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    assert not plan.wants_slot
    plan.end(1, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    assert plan.start_next(NOW) == 2


def test_what_depends_on_a_failed_task_is_skipped_because_of_it_and_the_rest_runs() -> None:
    plan = plan_of(task("a"), task("b", "a"), task("c", "b"), task("d"))
    plan.start_next(NOW)
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0, exit_code=3)

    assert states(plan) == ["failed", "skipped", "skipped", "pending"]
    assert [one.blocked_by for one in plan.tasks] == [None, "a", "a", None]
    assert plan.verdict() is None
    plan.start_next(NOW)
    plan.end(3, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    assert plan.verdict() is RunState.FAILED


def test_what_follows_a_skip_waits_for_the_rest_and_says_which_came_first() -> None:
    plan = plan_of(task("a", skip_codes=(99,)), task("b"), task("c", "a", "b"), task("d", "c"), task("e", "a"))
    plan.start_next(NOW)
    plan.start_next(NOW)
    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0, exit_code=99, code=99, outputs={"x": "1"})
    plan.work_off(NOW)

    assert states(plan) == ["skipped", "running", "pending", "pending", "skipped"]
    assert plan.tasks[0].outputs == {}
    plan.end(1, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    plan.work_off(NOW)
    assert [one.skip_reason for one in plan.tasks] == ["code", None, *["upstream_skipped"] * 3]
    assert [one.blocked_by for one in plan.tasks] == [None, None, "a", "a", "a"]
    assert plan.verdict() is RunState.COMPLETED


def test_retries_are_for_the_statuses_that_ask_for_them_and_not_for_a_time_limit() -> None:
    plan = plan_of(*(task(name, max_retries=1, retry_codes=(75,)) for name in "abc"))
    for code in (75, 1, None):
        plan.end(plan.start_next(NOW), AttemptState.FAILED, now=NOW, jitter=0.0, code=code)

    assert states(plan) == ["pending", "failed", "failed"]


def test_what_would_fail_likewise_is_not_tried_again() -> None:
    plan = plan_of(*(task(name, max_retries=5) for name in "ab"))
    for jitter in (None, 0.0):
        plan.end(plan.start_next(NOW), AttemptState.FAILED, now=NOW, jitter=jitter)

    assert states(plan) == ["failed", "pending"]


def test_the_time_of_a_run_ends_by_the_wall_clock_also_when_the_machine_slept_and_never_later_than_it_was() -> None:
    plan = plan_of(task("a"), timeout_s=60.0, started_at_us=NOW.wall_us)
    assert plan.ends_by_s == NOW.mono_s + 60

    plan.note_begin(Instant(NOW.wall_us + 50_000_000, NOW.mono_s + 1))
    assert plan.ends_by_s == NOW.mono_s + 11
    plan.note_begin(Instant(NOW.wall_us - 3_600_000_000, NOW.mono_s + 2))
    assert plan.ends_by_s == NOW.mono_s + 11
    assert plan_of(task("a"), timeout_s=60.0).ends_by_s == math.inf


def test_a_failure_waits_for_its_retry_without_a_slot_and_starts_when_it_is_due() -> None:
    plan = plan_of(task("a", max_retries=1, retry_delay_s=2.0))
    plan.start_next(NOW)
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0)

    assert (states(plan), plan.running, plan.due_s) == (["pending"], set(), 102.0)
    plan.release_retries(Instant(NOW.wall_us, 101.9))
    assert not plan.wants_slot
    plan.release_retries(Instant(NOW.wall_us, 102.0))
    assert plan.start_next(NOW) == 0
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0)
    assert plan.verdict() is RunState.FAILED
    assert (plan.tasks[0].attempts, plan.tasks[0].failures) == (2, 2)


def test_a_lost_attempt_does_not_use_up_the_retries() -> None:
    plan = plan_of(task("a", max_retries=0))
    for _ in range(3):
        plan.start_next(NOW)
        plan.end(0, AttemptState.LOST, now=NOW, jitter=0.0)

    assert (plan.tasks[0].attempts, plan.tasks[0].failures) == (3, 0)
    assert plan.wants_slot


def test_a_lost_attempt_fails_the_task_that_asks_for_it() -> None:
    plan = plan_of(task("a", on_lost=OnLost.FAIL), task("b", "a"))
    plan.start_next(NOW)
    plan.end(0, AttemptState.LOST, now=NOW, jitter=0.0)

    assert states(plan) == ["failed", "skipped"]


def test_a_paused_run_wants_nothing() -> None:
    plan = plan_of(task("a"), status=RunState.PAUSED)

    assert not plan.wants_slot


def test_max_parallel_bounds_the_tasks_of_a_run() -> None:
    plan = plan_of(task("a"), task("b"), max_parallel=1)
    plan.start_next(NOW)

    assert not plan.wants_slot


def test_a_cancelled_run_is_over_when_its_running_tasks_have_ended() -> None:
    plan = plan_of(task("a", max_retries=5), task("b"), task("c", "a"), cancel_requested=True)
    plan.start_next(NOW)
    plan.cancel_waiting(NOW)

    assert states(plan) == ["running", "cancelled", "cancelled"]
    assert plan.verdict() is None
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0)
    assert states(plan)[0] == "cancelled"
    assert plan.verdict() is RunState.CANCELLED


def test_a_final_task_cannot_be_moved() -> None:
    plan = plan_of(task("a"))
    plan.start_next(NOW)
    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0)

    with pytest.raises(IllegalStateError):
        plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0)


@given(st.data())
def test_any_order_of_ends_finishes_every_task_exactly_once_and_a_plan_can_be_rebuilt_at_any_moment(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 8))
    specs = [
        task(
            f"t{number}",
            *(f"t{parent}" for parent in data.draw(st.sets(st.integers(0, number - 1)) if number else st.just(()))),
            max_retries=data.draw(st.integers(0, 2)),
            retry_delay_s=0.0,
            skip_codes=data.draw(st.sampled_from([(), (99,)])),
            allow_failure=data.draw(st.sampled_from([False, True, (1,)])),
        )
        for number in range(count)
    ]
    plan = plan_of(*specs)
    for _ in range(200):
        if plan.verdict() is not None:
            break
        plan.release_retries(NOW)
        startable = plan.wants_slot
        if startable and (not plan.running or data.draw(st.booleans())):
            number = plan.start_next(NOW)
            parents = set(specs[number].depends_on)
            before = [one for one in plan.tasks if one.task_id in parents]
            assert all(one.status is TaskState.COMPLETED or one.outcome is Outcome.ALLOWED for one in before)
        else:
            number = data.draw(st.sampled_from(sorted(plan.running)))
            ending = data.draw(st.sampled_from([AttemptState.COMPLETED, AttemptState.FAILED]))
            code = data.draw(st.sampled_from([0, 99] if ending is AttemptState.COMPLETED else [1, 2]))
            plan.end(number, ending, now=NOW, jitter=0.0, code=code)
            plan.work_off(NOW)
        rebuilt = placed(RunPlan(plan.run, plan.spec, plan.tasks))
        rebuilt.work_off(NOW)
        rebuilt.release_retries(NOW)
        plan.release_retries(NOW)
        assert (rebuilt.wants_slot, rebuilt.running, rebuilt.verdict()) == (
            plan.wants_slot,
            plan.running,
            plan.verdict(),
        )

    by_id = {one.task_id: one for one in plan.tasks}
    for one, its_spec in zip(plan.tasks, specs, strict=True):
        before = [by_id[parent] for parent in its_spec.depends_on]
        wrong = any(other.counts_as_failed for other in before)
        skipped = any(other.status is TaskState.SKIPPED for other in before)
        if wrong:
            assert (one.status, one.outcome) == (TaskState.SKIPPED, Outcome.UPSTREAM_FAILED)
        elif skipped:
            assert (one.status, one.outcome) == (TaskState.SKIPPED, Outcome.UPSTREAM_SKIPPED)
        else:
            assert one.attempts
            assert one.outcome in (None, Outcome.ALLOWED, Outcome.CODE)
    failed = any(one.status is TaskState.FAILED and one.outcome is None for one in plan.tasks)
    assert plan.verdict() is (RunState.FAILED if failed else RunState.COMPLETED)
    changes = plan.rows.take_changes()
    finals = [new.task_no for _, new in changes if new.status.final]
    assert sorted(finals) == list(range(count))
    assert all(new.version == old.version + 1 for old, new in changes)


def test_a_wall_clock_that_was_set_back_does_not_prolong_the_wait_for_a_retry() -> None:
    plan = plan_of(task("a", max_retries=1, retry_delay_s=2.0))
    plan.start_next(NOW)
    plan.end(0, AttemptState.FAILED, now=NOW, jitter=0.0)

    later = Instant(NOW.wall_us - 86_400_000_000, NOW.mono_s + 1.0)
    again = placed(RunPlan(plan.run, plan.spec, plan.tasks), now=later)

    assert again.due_s == later.mono_s + 2.0


def lost(plan: RunPlan, number: int) -> None:
    """End an attempt with its worker."""
    plan.end(number, AttemptState.LOST, now=NOW, jitter=0.0, error="the worker died while it ran")


def suspects(*tasks: TaskSpec, losses: int) -> RunPlan:
    """Return the plan of a run whose first task has lost its worker as often."""
    plan = plan_of(*tasks)
    return placed(RunPlan(plan.run, plan.spec, plan.tasks, losses=[TaskLoss("r", 0, losses, 60_000_000)]))


def test_a_task_whose_worker_died_too_often_is_failed_and_says_why_and_the_way_out() -> None:
    plan = suspects(task("a", max_losses=2), task("b", "a"), losses=2)
    plan.start_alone(NOW)
    lost(plan, 0)

    assert states(plan) == ["failed", "skipped"]
    assert plan.verdict() is RunState.FAILED
    error = plan.tasks[0].error or ""
    assert "its worker died 2 times in a row while this task ran alone" in error
    assert "max_losses" in error


@pytest.mark.parametrize(("losses", "limit"), [(1, 2), (2, 3), (500, 0)])
def test_a_task_below_its_bound_is_tried_again_apart_and_without_a_bound_for_ever(losses: int, limit: int) -> None:
    plan = suspects(task("a", max_losses=limit), losses=losses)
    plan.start_alone(NOW)
    lost(plan, 0)

    assert states(plan) == ["pending"]
    assert plan.alone_s < math.inf


@pytest.mark.parametrize("status", [AttemptState.COMPLETED, AttemptState.FAILED])
def test_an_attempt_that_ends_by_itself_has_its_losses_forgotten(status: AttemptState) -> None:
    plan = suspects(task("a", max_retries=1, retry_delay_s=0.0), losses=2)
    plan.start_alone(NOW)
    plan.end(0, status, now=NOW, jitter=0.0)
    plan.release_retries(NOW)

    assert plan.losses.take_acquitted() == [0]
    assert plan.alone_s == math.inf


def test_a_task_that_is_tried_apart_is_not_among_those_that_start_beside_others() -> None:
    plan = suspects(task("a"), task("b"), losses=0)

    assert plan.start_alone(NOW) == (0, 60.0)
    assert plan.alone_s == math.inf
    assert plan.start_next(NOW) == 1
