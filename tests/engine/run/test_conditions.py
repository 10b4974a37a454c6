"""When conditions are judged, and what an instance that is passed over does to the places of its task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from cis.engine.run.conditions import MOST_JUDGED, judge_conditions
from cis.engine.run.plan import RunPlan
from cis.engine.this_node import ThisNode
from cis.model.instances import of_list
from cis.model.states import AttemptState, Outcome
from tests.worlds.plans import NOW, placed, plan_of, states, task

NODE = cast("ThisNode", SimpleNamespace(node_id="node-1", labels=("gpu",)))


def judged(*tasks: Any) -> RunPlan:
    """Return a plan whose conditions were judged, and all that follows from that was worked off."""
    plan = plan_of(*tasks)
    while plan.undecided:
        judge_conditions(plan, NODE, NOW)
    plan.work_off(NOW)
    return plan


def test_a_condition_is_judged_once_when_what_is_before_it_is_over_and_not_again_for_a_retry() -> None:
    plan = plan_of(task("a"), task("b", "a", when="tasks.a.outputs.n == '1'", max_retries=1, retry_delay_s=1.0))
    assert not plan.undecided
    plan.start_next(NOW)
    plan.end(0, AttemptState.COMPLETED, now=NOW, jitter=0.0, outputs={"n": "1"})
    assert (list(plan.undecided), plan.backlog, plan.due_s, plan.wants_slot) == ([1], True, 0.0, False)

    judge_conditions(plan, NODE, NOW)
    assert plan.start_next(NOW) == 1
    plan.end(1, AttemptState.FAILED, now=NOW, jitter=0.0)
    again = placed(RunPlan(plan.run, plan.spec, plan.tasks))
    assert (list(plan.undecided), list(again.undecided)) == ([], [])


def test_a_node_is_known_by_its_id_and_its_labels_and_a_run_by_what_began_it() -> None:
    plan = judged(
        task("a", when="node.id == 'node-1' && 'gpu' in node.labels && node.os != '' && node.arch != ''"),
        task("b", when="run.id == 'r' && run.scope == 'global' && run.trigger == null"),
        task("c", when="'cpu' in node.labels"),
    )

    assert states(plan) == ["pending", "pending", "skipped"]
    assert len(plan.ready) == 2


def test_one_turn_judges_so_many_and_the_rest_is_backlog() -> None:
    plan = plan_of(*(task(f"t{number}", when="run.id == ''") for number in range(MOST_JUDGED + 1)))
    judge_conditions(plan, NODE, NOW)

    assert (states(plan).count("skipped"), len(plan.undecided), plan.backlog) == (MOST_JUDGED, 1, True)


def test_what_costs_much_leaves_the_rest_to_the_next_turn() -> None:
    costly = (
        f"[{', '.join(['1'] * 60)}].all(x, [{', '.join(['1'] * 60)}].all(y, [{', '.join(['1'] * 60)}].all(z, z == 1)))"
    )
    plan = plan_of(*(task(f"t{number}", when=costly) for number in range(5)))
    judge_conditions(plan, NODE, NOW)

    assert states(plan).count("failed") == 2
    assert "it takes more than" in str(plan.tasks[0].error)


def test_a_cancel_leaves_no_condition_to_be_judged() -> None:
    plan = plan_of(task("a", when="run.id == ''"), task("b", when="run.id == 1 + ''"))
    plan.cancel_waiting(NOW)

    assert not plan.undecided
    assert states(plan) == ["cancelled", "cancelled"]


def test_an_instance_that_is_skipped_gives_nobody_a_place_for_it_had_none() -> None:
    plan = plan_of(task("m", foreach=["a", "b", "c"], max_parallel=1, when="item != 'b'"))
    plan.make_many(0, of_list(["a", "b", "c"]), NOW)
    assert list(plan.undecided) == [1, 2, 3]
    for number, holds in ((1, True), (3, True), (2, False)):
        plan.take_condition(number, NOW, holds=holds)

    assert len(plan.ready) == 1
    assert plan.tasks[2].outcome is Outcome.CONDITION
    plan.start_next(NOW)
    plan.end(1, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    assert plan.start_next(NOW) == 3
    plan.end(3, AttemptState.COMPLETED, now=NOW, jitter=0.0)
    assert states(plan) == ["completed", "completed", "skipped", "completed"]
