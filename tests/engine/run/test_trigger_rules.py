"""Trigger rules against a table that was written from the contract, and random DAGs with rules and conditions."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis.engine.run.plan import RunPlan
from cis.model.dag import DagSpec, TaskSpec
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, Outcome, RunState, TaskState
from cis.model.trigger_rules import TriggerRule
from cis.store.records import TaskRecord
from tests.worlds import rows
from tests.worlds.plans import NOW, placed, plan_of, states, task

RULES = (
    "all_success",
    "all_done",
    "all_failed",
    "one_success",
    "one_failed",
    "none_failed",
    "none_failed_min_one_success",
    "always",
)
# What is before a task: s succeeded, f failed, k was skipped. What becomes of it, by each rule in the order above: it Runs, or
# is skipped: Failed upstream, Skipped upstream, or its rule does not hold (X).
TABLE = {
    "": "R R R R R R R R",
    "s": "R R X R X R R R",
    "f": "F R R F R F F R",
    "k": "S R X S X R S R",
    "ss": "R R X R X R R R",
    "sf": "F R X R R F F R",
    "sk": "S R X R X R R R",
    "ff": "F R R F R F F R",
    "fk": "F R X F R F F R",
    "kk": "S R X S X R S R",
    "sss": "R R X R X R R R",
    "ssf": "F R X R R F F R",
    "ssk": "S R X R X R R R",
    "sff": "F R X R R F F R",
    "sfk": "F R X R R F F R",
    "skk": "S R X R X R R R",
    "fff": "F R R F R F F R",
    "ffk": "F R X F R F F R",
    "fkk": "F R X F R F F R",
    "kkk": "S R X S X R S R",
}
COUNTS_AS: dict[str, list[tuple[TaskState, Outcome | None]]] = {
    "s": [(TaskState.COMPLETED, None), (TaskState.FAILED, Outcome.ALLOWED)],
    "f": [(TaskState.FAILED, None), (TaskState.CANCELLED, None), (TaskState.SKIPPED, Outcome.UPSTREAM_FAILED)],
    "k": [
        (TaskState.SKIPPED, Outcome.CONDITION),
        (TaskState.SKIPPED, Outcome.CODE),
        (TaskState.SKIPPED, Outcome.RULE),
        (TaskState.SKIPPED, Outcome.UPSTREAM_SKIPPED),
    ],
}
ENDS = [(letter, end) for letter, ends in COUNTS_AS.items() for end in ends]
OF_A_SKIP = {"F": Outcome.UPSTREAM_FAILED, "S": Outcome.UPSTREAM_SKIPPED, "X": Outcome.RULE}


def after(ends: list[tuple[TaskState, Outcome | None]], rule: str) -> RunPlan:
    """Return the plan of a run whose last task depends on tasks that have ended so."""
    ids = [f"t{number}" for number in range(len(ends))]
    specs = (*map(task, ids), task("last", *ids, trigger_rule=TriggerRule(rule)))
    stored = [
        TaskRecord(run_id="r", task_no=number, task_id=one, status=status, outcome=outcome)
        for number, (one, (status, outcome)) in enumerate(zip(ids, ends, strict=True))
    ]
    stored.append(TaskRecord(run_id="r", task_no=len(ids), task_id="last"))
    run = rows.run("r", status=RunState.RUNNING, scope=GLOBAL, worker_id=GLOBAL.worker_id, task_count=len(specs))
    plan = placed(RunPlan(run, DagSpec(dag_id="d", tasks=specs), stored))
    plan.work_off(NOW)
    return plan


@pytest.mark.parametrize("count", range(4))
def test_every_combination_of_ends_has_the_outcome_that_the_contract_says(count: int) -> None:
    wrong = []
    for ends in product(ENDS, repeat=count):
        row = TABLE["".join(sorted((letter for letter, _ in ends), key="sfk".index))]
        for rule, letter in zip(RULES, row.split(), strict=True):
            plan = after([end for _, end in ends], rule)
            last = plan.tasks[-1]
            wanted = (TaskState.PENDING, None) if letter == "R" else (TaskState.SKIPPED, OF_A_SKIP[letter])
            because = {"F": "f", "S": "k"}.get(letter)
            first = next((f"t{place}" for place, (one, _) in enumerate(ends) if one == because), None)
            found = (last.status, last.outcome, last.blocked_by, plan.wants_slot)
            if found != (*wanted, first, letter == "R"):
                wrong.append((ends, rule, found))

    assert {*RULES} == set(TriggerRule)
    assert wrong == []


@pytest.mark.parametrize(
    ("rule", "ends", "starts"),
    [
        ("one_success", AttemptState.COMPLETED, True),
        ("one_failed", AttemptState.FAILED, True),
        ("one_success", AttemptState.FAILED, False),
        ("one_failed", AttemptState.COMPLETED, False),
        ("all_done", AttemptState.FAILED, False),
        ("always", AttemptState.COMPLETED, False),
        ("all_failed", AttemptState.FAILED, False),
    ],
)
def test_rules_of_one_fire_at_once_and_only_once_and_the_others_wait_for_all(
    rule: str, ends: AttemptState, *, starts: bool
) -> None:
    plan = plan_of(task("a"), task("b"), task("c", "a", "b", trigger_rule=TriggerRule(rule)))
    plan.start_next(NOW)
    plan.start_next(NOW)
    plan.end(0, ends, now=NOW, jitter=0.0)
    assert plan.wants_slot is starts
    assert states(plan)[2] == "pending"

    plan.end(1, ends, now=NOW, jitter=0.0)
    assert len(plan.ready) == (0 if (rule, starts) in {("one_success", False), ("one_failed", False)} else 1)


def spec_of(data: st.DataObject, number: int) -> TaskSpec:
    """Return a task that depends on some of those before it."""
    parents = data.draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
    return task(
        f"t{number}",
        *(f"t{parent}" for parent in parents),
        trigger_rule=data.draw(st.sampled_from(TriggerRule)),
        when=data.draw(st.sampled_from([None, None, "true"])),
        skip_codes=data.draw(st.sampled_from([(), (99,)])),
        allow_failure=data.draw(st.booleans()),
    )


def judged(plan: RunPlan, verdicts: dict[int, str]) -> None:
    """Judge what is undecided, each task always the same."""
    while plan.undecided:
        number = plan.undecided.popleft()
        verdict = verdicts[number]
        plan.take_condition(number, NOW, holds=verdict == "true", error="none" if verdict == "error" else None)
        plan.work_off(NOW)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_dags_with_rules_and_conditions_come_to_rest_and_say_why_a_task_did_not_run(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    specs = [spec_of(data, number) for number in range(count)]
    verdicts = {number: data.draw(st.sampled_from(["true", "false", "error"])) for number in range(count)}
    plan = plan_of(*specs)
    judged(plan, verdicts)
    while plan.verdict() is None:
        if plan.wants_slot and (not plan.running or data.draw(st.booleans())):
            plan.start_next(NOW)
        else:
            number = data.draw(st.sampled_from(sorted(plan.running)))
            ending = data.draw(st.sampled_from([AttemptState.COMPLETED, AttemptState.FAILED, AttemptState.CANCELLED]))
            code = data.draw(st.sampled_from([0, 99])) if ending is AttemptState.COMPLETED else 1
            plan.end(number, ending, now=NOW, jitter=0.0, code=code)
            plan.work_off(NOW)
        if data.draw(st.booleans()):  # a worker that takes the run up here finds the same
            again = placed(RunPlan(plan.run, plan.spec, plan.tasks))
            again.work_off(NOW)
            judged(again, verdicts)
            judged(plan, verdicts)
            assert (len(again.ready), again.running, again.verdict()) == (len(plan.ready), plan.running, plan.verdict())
            assert [one.status for one in again.tasks] == [one.status for one in plan.tasks]
        judged(plan, verdicts)

    for one in plan.tasks:
        assert one.status.final
        assert bool(one.attempts) or one.skip_reason or one.error
    failed = any(one.counts_as_failed and one.status is not TaskState.SKIPPED for one in plan.tasks)
    assert plan.verdict() is (RunState.FAILED if failed else RunState.COMPLETED)
