"""What a turn adds to runs, and what follows from that: instances of tasks, and handlers (docs/adr/0033)."""

from __future__ import annotations

from collections.abc import Sequence

from cis.engine.accept.control import cancel
from cis.engine.run.ends import End
from cis.engine.run.many import instances_of
from cis.engine.run.plan import CHANGES_AT_ONCE, RunPlan
from cis.engine.run.turn import Turn
from cis.engine.run.waits import cancelled
from cis.engine.transitions import add_tasks, move_run
from cis.errors import LaunchError
from cis.model.states import RunState
from cis.store.records import RunChange, TaskRecord


def settle_all(turn: Turn) -> None:
    """Add the handlers to each run in which nothing else is left to do."""
    for plan in turn.held.plans.values():
        if plan.spec.handlers and plan.settled is None and plan.verdict() is not None:
            settle(turn, plan)


def settle(turn: Turn, plan: RunPlan) -> bool:
    """Store the handlers of a run that is over but for these; return whether there are any."""
    turn.refresh(plan)
    verdict = plan.verdict()
    if verdict is None:
        return False
    if verdict is not RunState.CANCELLED:
        turn.mark_running(plan, turn.now)
    turn.write(plan)  # first: the ends that led here
    added = plan.settle()
    if added:
        turn.cancelled.discard(plan.run.run_id)  # nothing of it runs but what begins now
        if plan.run.cancel_requested and plan.paused:
            plan.run = move_run(turn.store, plan.run, RunChange(status=RunState.RUNNING), at_us=turn.now.wall_us)
        _store(turn, plan, added)
    return bool(added)


def make_many(turn: Turn) -> None:
    """Store the instances of each task that is to be made into many, those of one task all at once."""
    left = CHANGES_AT_ONCE
    for plan in turn.held.plans.values():
        while plan.unmade and left > 0 and not turn.held_back(plan):
            left -= _make_many(turn, plan, plan.unmade.pop(0))


def stop_tasks(turn: Turn) -> list[End]:
    """Begin to end the tasks that are to end by themselves; return the waits that are over."""
    ends: list[End] = []
    for plan in turn.held.plans.values():
        for number in plan.take_stopped() if plan.stopped else ():
            key = (plan.run.run_id, number)
            wait = turn.held.waits.pop(key) if number in plan.waits else None
            if number in plan.children:
                turn.rings.add(cancel(turn.store, plan.children[number], now_us=turn.now.wall_us).worker_id)
                turn.disturb()
            elif wait is not None:
                ends.append(cancelled(wait, plan, now=turn.now))
            else:
                turn.stopped.add(key)
    return ends


def _make_many(turn: Turn, plan: RunPlan, number: int) -> int:
    """Make one task into many; return how many rows were stored."""
    begun = turn.begun()
    turn.mark_running(plan, begun)
    try:
        made = instances_of(plan.task_spec(number), plan.values)
    except LaunchError as error:
        plan.refuse(number, str(error), begun)
        return 1
    added = plan.make_many(number, made, begun)
    _store(turn, plan, added)
    return 1 + len(added)


def _store(turn: Turn, plan: RunPlan, added: Sequence[TaskRecord]) -> None:
    if added:
        add_tasks(turn.store, plan.run, added, at_us=turn.now.wall_us)
        plan.run = plan.run._replace(task_count=plan.run.task_count + len(added))
