"""Which ready tasks get the free slots of a worker: of the higher priority first, then of the older run.

A task that may have taken its last worker down runs apart from all others for a while (``cis.engine.run.losses``).
"""

from __future__ import annotations

from collections.abc import Sequence

from cis.engine.run.ahead import WITHIN_S, Pace
from cis.engine.run.effects import NEVER, Start
from cis.engine.run.live import Live
from cis.engine.run.parts import room_for
from cis.engine.run.plan import RunPlan
from cis.engine.run.turn import Turn
from cis.engine.times import Instant


def choose_starts(turn: Turn, *, pace: Pace) -> list[Start]:
    """Give the free slots to ready tasks: what was stored ahead, then higher priority, then the older run.

    Some more are stored for slots that are not free yet, as *pace* allows (``Turn.ahead``).
    """
    waiting = [plan for plan in turn.held.plans.values() if plan.wants_slot]
    room = room_for(turn.held, slots=turn.limits.slots, wanted=bool(waiting), now_s=turn.now.mono_s)
    free = room - len(turn.held.live) - len(turn.held.asked)
    turn.held.place.begin(len(turn.held.live), now_s=turn.now.mono_s)
    starts: list[Start] = []
    while turn.ahead and len(starts) < free and _has_place(turn, len(starts) + 1):
        starts.append(turn.ahead.pop(0))
    most = 0 if turn.held.short is not None else pace.most
    if not waiting or (len(starts) >= free and len(turn.ahead) >= most) or _one_runs_alone(turn):
        return starts
    begun = turn.begun()
    made: list[Start] = []
    waiting.sort(key=lambda plan: (-plan.run.priority, plan.run.run_id))
    # Who lived shortest goes first: it may have taken the worker down beside one that had outlived its suspicion.
    suspects = [plan for plan in waiting if plan.alone_s < NEVER]
    if suspects:
        if starts or turn.ahead or free <= 0:
            return starts  # what is stored already waits again in the next turn, and then a suspect can be alone
        if (alone := _start_alone(turn, suspects, begun)) is not None:
            return alone
    begins_by_s = turn.now.mono_s + WITHIN_S
    for plan in waiting:
        has_place = len(starts) < free and _has_place(turn, len(starts) + 1)
        if not has_place and len(turn.ahead) >= most:
            break
        if turn.held_back(plan) or not (has_place or pace.allows(plan)):
            continue
        turn.mark_running(plan, begun)
        while plan.wants_slot:
            if len(starts) < free and _has_place(turn, len(starts) + 1):
                made.append(Start(plan, turn.attempt(plan, plan.start_next(begun), begun)))
                starts.append(made[-1])
            elif len(turn.ahead) < most and pace.allows(plan):
                made.append(Start(plan, turn.attempt(plan, plan.start_next(begun), begun), begins_by_s))
                turn.ahead.append(made[-1])
            else:
                break
    turn.store.attempts.start([start.attempt for start in made])
    return starts


def _has_place(turn: Turn, starts: int) -> bool:
    return turn.held.place.allows(len(turn.held.live) + starts, now_s=turn.now.mono_s)


def _one_runs_alone(turn: Turn) -> bool:
    """Whether an attempt runs beside which nothing may start: it may be what took the last worker down."""
    return turn.held.alone is not None and turn.now.mono_s < turn.held.alone[1]


def _start_alone(turn: Turn, suspects: Sequence[RunPlan], begun: Instant) -> list[Start] | None:
    """Start the first suspect once nothing runs but what has outlived its suspicion; None: control holds all of them back."""
    for plan in sorted(suspects, key=lambda plan: plan.alone_s):
        if turn.held_back(plan):
            continue
        if not all(_has_outlived(turn, live) for live in turn.held.live) or not _has_place(turn, 1):
            return []
        turn.mark_running(plan, begun)
        number, alone_s = plan.start_alone(begun)
        attempt = turn.attempt(plan, number, begun)
        turn.alone = (attempt, turn.now.mono_s + alone_s)
        turn.store.attempts.start([attempt])
        return [Start(plan, attempt)]
    return None


def _has_outlived(turn: Turn, live: Live) -> bool:
    plan = turn.held.plans.get(live.attempt.run_id)
    return plan is not None and plan.losses.outlived(live.attempt.task_no, turn.now.mono_s - live.started_s)
