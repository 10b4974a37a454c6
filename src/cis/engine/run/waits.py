"""Tasks that wait for a moment, or until their skill says that it is over: they hold no process and no slot.

The start of such an attempt is stored with the moment at which the wait is over (0: only its skill can say), in the
same transaction. So a wait goes on where it was when its worker or its node was started again, and is nothing that was
lost: for a moment only the row is needed, and else its skill is asked for its plan once more. A pause stops no wait, as
it stops no process; a time limit and a cancel end it.

Whether one is over is asked outside of the transaction that stores its end. The loop wakes at the moment that is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cis.engine.outputs import MAX_OUTPUT_BYTES, is_output_name, size_of
from cis.engine.ports import Wait
from cis.engine.run.ends import End, failed
from cis.engine.run.plan import RunPlan
from cis.engine.times import Instant
from cis.errors import CisError, LaunchError
from cis.model.dag import Json
from cis.model.states import AttemptState
from cis.store.records import AttemptRecord

ITS_SKILL_KNOWS = 0  # in place of the moment, where nobody else can say
LEAST_PAUSE_S = 0.1  # between two questions
ASKED_AT_ONCE = 100  # in one turn

Key = tuple[str, int]  # a run and the number of its task
Planned = Callable[[RunPlan, int], object]


@dataclass(slots=True, kw_only=True)
class TaskWait:
    """An attempt that waits. Times are monotonic seconds: when it is over, or to be asked next, and its time limit.

    ``wait`` is what its skill planned, once that was asked; *known* whether the moment alone decides.
    """

    attempt: AttemptRecord
    known: bool
    over_s: float
    limit_s: float
    wait: Wait | None = None

    @property
    def due_s(self) -> float:
        """When something is to be done about it."""
        return min(self.over_s, self.limit_s)


class Waits:
    """The waits of the runs that a worker holds."""

    def __init__(self, waits: Mapping[Key, TaskWait] | None = None) -> None:
        self._waits: dict[Key, TaskWait] = dict(waits or {})
        self.due_s = min((wait.due_s for wait in self._waits.values()), default=math.inf)

    def __iter__(self) -> Iterator[TaskWait]:
        return iter(self._waits.values())

    def add(self, wait: TaskWait) -> None:
        """Take in a wait."""
        self._waits[wait.attempt.run_id, wait.attempt.task_no] = wait
        self.due_s = min(self.due_s, wait.due_s)

    def pop(self, key: Key) -> TaskWait | None:
        """Give up a wait; None when there is none, or its end is on its way."""
        return self._waits.pop(key, None)

    def add_all(self, others: Waits) -> None:
        """Take in the waits of others."""
        for wait in others:
            self.add(wait)

    def only(self, run_id: str | None) -> Waits:
        """Return the waits of one run."""
        return Waits({key: wait for key, wait in self._waits.items() if key[0] == run_id})

    def forget(self, run_id: str | None) -> None:
        """Let go of the waits of one run."""
        for key in [key for key in self._waits if key[0] == run_id]:
            del self._waits[key]

    def clear(self) -> None:
        """Let go of all of them."""
        self._waits.clear()

    def ended(self, plans: Mapping[str, RunPlan], *, planned: Planned, now: Instant) -> list[End]:
        """Return the ends of waits that are over, or whose time limit is, and give them up; *planned* asks a skill."""
        if self.due_s > now.mono_s:
            return []
        ends: list[End] = []
        asked = 0
        for key, wait in list(self._waits.items()):
            if wait.due_s > now.mono_s or asked >= ASKED_AT_ONCE:
                continue
            asked += 1
            plan = plans.get(key[0])
            end = None if plan is None else _end(wait, plan, planned=planned, now=now)
            if plan is None or end is not None:
                del self._waits[key]
            if end is not None:
                ends.append(end)
        self.due_s = min((wait.due_s for wait in self._waits.values()), default=math.inf)
        return ends


def due_at_us(wait: Wait, begun: Instant) -> int:
    """Return what is stored of a wait that begins: when it is over."""
    if wait.ask is not None:
        return ITS_SKILL_KNOWS
    if wait.until_us is not None:
        return max(wait.until_us, 1)
    return begun.wall_us + round((wait.for_s or 0.0) * 1e6)


def resumed(plan: RunPlan, attempt: AttemptRecord, *, now: Instant, wait: Wait | None = None) -> TaskWait:
    """Return the wait of an attempt as its row has it; *wait* is what its skill planned, where that is at hand."""
    at_us = plan.tasks[attempt.task_no].due_at_us or ITS_SKILL_KNOWS
    # The wall clock may have been set back meanwhile: no wait is longer than was meant.
    meant_s = max(0.0, (at_us - attempt.started_at_us) / 1e6)
    return TaskWait(
        attempt=attempt,
        known=at_us != ITS_SKILL_KNOWS,
        over_s=now.until(at_us, at_most_s=meant_s),
        limit_s=time_limit_s(plan, attempt, now=now),
        wait=wait,
    )


def time_limit_s(plan: RunPlan, attempt: AttemptRecord, *, now: Instant) -> float:
    """Return when the time limit of a task that waits is over, on the monotonic clock; infinity without one."""
    limit_s = plan.task_spec(attempt.task_no).timeout_s
    if limit_s is None:
        return math.inf
    return now.until(attempt.started_at_us + round(limit_s * 1e6), at_most_s=limit_s)


def cancelled(wait: TaskWait, plan: RunPlan, *, now: Instant) -> End:
    """Return the end of a wait whose run was cancelled."""
    return _ended(wait.attempt, plan, AttemptState.CANCELLED, now=now, error="cancelled")


def _end(wait: TaskWait, plan: RunPlan, *, planned: Planned, now: Instant) -> End | None:
    """Return how a wait ended; None: it goes on, and ``over_s`` says when to look again."""
    number = wait.attempt.task_no
    if wait.over_s <= now.mono_s:
        if wait.known:
            return _ended(wait.attempt, plan, AttemptState.COMPLETED, now=now)
        try:
            found = _ask(wait, plan, planned)
        except CisError as error:
            return failed(wait.attempt, str(error), at_us=plan.wait_ended_us(wait.attempt, now))
        except Exception as error:  # noqa: BLE001 - a stranger's skill may raise anything, and must not end the worker
            why = f"skill {plan.task_spec(number).skill!r} failed: {error!r}"
            return failed(wait.attempt, why, at_us=plan.wait_ended_us(wait.attempt, now))
        if found is not None:
            return _ended(wait.attempt, plan, AttemptState.COMPLETED, now=now, outputs=found)
    if wait.limit_s <= now.mono_s:
        why = f"timed out after {plan.task_spec(number).timeout_s:g} s"
        return _ended(wait.attempt, plan, AttemptState.FAILED, now=now, error=why)
    if wait.over_s <= now.mono_s:
        wait.over_s = now.mono_s + max(LEAST_PAUSE_S, wait.wait.every_s if wait.wait else 0.0)
    return None


def _ask(wait: TaskWait, plan: RunPlan, planned: Planned) -> dict[str, str] | None:
    number = wait.attempt.task_no
    if wait.wait is None:
        found = planned(plan, number)
        if not isinstance(found, Wait) or found.ask is None:
            raise LaunchError(f"skill {plan.task_spec(number).skill!r} cannot say any more whether the wait is over")
        wait.wait = found
    outputs = wait.wait.ask() if wait.wait.ask else {}
    if outputs is None:
        return None
    found_outputs = {name: value for name, value in outputs.items() if is_output_name(name) and isinstance(value, str)}
    if len(found_outputs) < len(outputs) or size_of(found_outputs) > MAX_OUTPUT_BYTES:
        raise LaunchError("its outputs must be strings under names of ASCII letters, digits and '_', 1 MiB in all")
    return found_outputs


def _ended(
    attempt: AttemptRecord,
    plan: RunPlan,
    status: AttemptState,
    *,
    now: Instant,
    error: str | None = None,
    outputs: dict[str, Json] | None = None,
) -> End:
    done = attempt._replace(
        status=status,
        exit_code=0 if status is AttemptState.COMPLETED else None,
        finished_at_us=plan.wait_ended_us(attempt, now),
        error=error,
    )
    return End(attempt=done, outputs=outputs or {})
