"""Which ready tasks get the free slots of a worker: of the higher priority first, then of the older run.

A task that may have taken its last worker down runs apart from all others for a while (``cis.engine.run.losses``).
"""

from __future__ import annotations

from collections.abc import Sequence

from cis.engine.run.ahead import WITHIN_S
from cis.engine.run.effects import NEVER, Start
from cis.engine.run.ends import End
from cis.engine.run.live import Live
from cis.engine.run.parts import room_for
from cis.engine.run.plan import RunPlan
from cis.engine.run.turn import Turn
from cis.engine.times import Instant


def choose_starts(turn: Turn, *, ends: Sequence[End]) -> list[Start]:
    """Give the free slots to ready tasks: what was stored ahead, then higher priority, then the older run.

    Some more, the more the faster *ends* came, are stored for slots that are not free yet (``Turn.ahead``).
    """
    held, now_s = turn.held, turn.now.mono_s
    if ends:
        held.ahead.note_turn(now_s)
    waiting = [plan for plan in held.plans.values() if plan.wants_slot]
    free = room_for(held, slots=turn.limits.slots, wanted=bool(waiting), now_s=now_s) - len(held.live) - len(held.asked)
    held.place.begin(len(held.live), now_s=now_s)
    starts: list[Start] = []
    while turn.ahead and len(starts) < free and _has_place(turn, len(starts) + 1):
        starts.append(turn.ahead.pop(0))
    if not waiting or _one_runs_alone(turn):
        return starts
    if len(waiting) > 1:
        waiting.sort(key=lambda plan: (-plan.run.priority, plan.run.run_id))
    # Who lived shortest goes first: it may have taken the worker down beside one that had outlived its suspicion.
    suspects = [plan for plan in waiting if plan.alone_s < NEVER]
    if suspects:
        if starts or turn.ahead or free <= 0:
            return starts  # what is stored already waits again in the next turn, and then a suspect can be alone
        if (alone := _start_alone(turn, suspects, turn.begun())) is not None:
            return alone
    made = _fill_slots(turn, waiting, starts, free=free)
    if held.short is None:
        made += _store_ahead(turn, waiting, ends)
    if made:
        turn.store.attempts.start([start.attempt for start in made])
    return starts


def _fill_slots(turn: Turn, waiting: Sequence[RunPlan], starts: list[Start], *, free: int) -> list[Start]:
    """Add to *starts* until no slot or no place is left, and return what was added."""
    made: list[Start] = []
    begun = turn.begun()
    for plan in waiting:
        if len(starts) >= free or not _has_place(turn, len(starts) + 1):
            break
        if turn.held_back(plan):
            continue
        turn.mark_running(plan, begun)
        while plan.wants_slot and len(starts) < free and _has_place(turn, len(starts) + 1):
            made.append(Start(plan, turn.attempt(plan, plan.start_next(begun), begun)))
            starts.append(made[-1])
    return made


def _store_ahead(turn: Turn, waiting: Sequence[RunPlan], ends: Sequence[End]) -> list[Start]:
    """Add to what is stored ahead, and return what was added."""
    waiting = [plan for plan in waiting if plan.wants_slot]
    if not waiting or not ends:
        return []
    found = ((turn.held.plans.get(end.attempt.run_id), end) for end in ends)
    ours = [(plan, end) for plan, end in found if plan is not None]
    pace = turn.held.ahead.pace(ours, slots=turn.limits.slots)
    made: list[Start] = []
    begun = turn.begun()
    for plan in waiting:
        if len(turn.ahead) >= pace.most:
            break
        if not pace.allows(plan) or turn.held_back(plan):
            continue
        turn.mark_running(plan, begun)
        while len(turn.ahead) < pace.most and plan.wants_slot and pace.allows(plan):
            attempt = turn.attempt(plan, plan.start_next(begun), begun)
            made.append(Start(plan, attempt, turn.now.mono_s + WITHIN_S))
            turn.ahead.append(made[-1])
    return made


def _has_place(turn: Turn, starts: int) -> bool:
    return turn.held.place.allows(len(turn.held.live) + starts, now_s=turn.now.mono_s)


def _one_runs_alone(turn: Turn) -> bool:
    """Whether an attempt runs beside which nothing may start: it may be what took the last worker down."""
    return turn.held.alone is not None and turn.now.mono_s < turn.held.alone[1]


def _start_alone(turn: Turn, suspects: Sequence[RunPlan], begun: Instant) -> list[Start] | None:
    """Start the first suspect once nothing else runs that could be to blame; None: control holds all back."""
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
