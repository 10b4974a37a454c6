"""What is left to do of one run, and what each end of a task leads to: decisions only, no I/O.

A plan mirrors the run's task rows. Every decision moves tasks along arrows that ``cis.model.states`` allows
and notes the pair (as it was, as it becomes); the loop writes those pairs in one transaction. When that
fails the loop throws the plan away and builds it anew from the rows, so a plan never has to be undone.

What one decision does to thousands of tasks (below one that failed, or of a cancelled run) is decided in pieces, or one
transaction would write 100,000 rows. What is left over, the plan's *backlog*, a plan that is built from the rows finds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from cis.engine.outputs import size_of
from cis.engine.run.handling import Verdict, begun, waits_for_others
from cis.engine.run.many import Many, end_of, is_for_instances, rows_of
from cis.engine.run.outlook import Outlook
from cis.engine.times import Instant
from cis.model.dag import Json, OnLost
from cis.model.instances import Instance
from cis.model.states import AttemptState, Outcome, RunState, TaskState
from cis.model.trigger_rules import Step
from cis.store.records import AttemptRecord, TaskRecord

CHANGES_AT_ONCE = 2000


class RunPlan(Outlook):
    """The tasks of one run: which may start, which wait, and whether the run is over."""

    def place_in_pieces(self, now: Instant, *, size: int) -> Generator[None, None, None]:
        """Find out of every task what is to be done about it, and pause after each *size* of them."""
        self.set_us = self.rows.set_us = now.set_us
        self.note_begin(now)
        for number, task in enumerate(self.tasks):
            self._place(number, task, now)
            if number % size == size - 1:
                yield

    def _place(self, number: int, task: TaskRecord, now: Instant) -> None:
        if number < self.written:
            self._upstream.place(number)
        if task.status.final:
            self.output_bytes += size_of(task.outputs) if task.outputs else 0
            return
        self.rows.unfinished += 1
        if task.cancel_requested:
            self.asked.add(number)
            self._stop_these([number])
            if task.status is TaskState.PENDING:
                return
        if task.status is TaskState.RUNNING:
            if number < self.written and self.specs[number].is_many:
                self._take_up_many(number, now)
            elif task.child_run_id is not None:
                self.children[number] = task.child_run_id
            elif task.due_at_us is not None:
                self.waits.add(number)
            else:
                self.running.add(number)
        elif task.due_at_us is not None:
            # The wall clock may have been set back meanwhile: no wait is longer than the longest that was meant.
            longest_s = self.specs[number].wait_before_retry_s(failures=max(task.failures, 1), jitter=1.0)
            self.ready.retry(number, at_s=now.until(task.due_at_us, at_most_s=longest_s))
        elif number < self.written:
            self._look(number)
        elif not waits_for_others(task, self.tasks[self.written :]):
            self._propose(number)

    def begin(self, now: Instant) -> None:
        """Take note that the run begins now."""
        self.set_us = now.set_us
        self.note_begin(now)

    def finish_us(self, now: Instant) -> int:
        """Return when the run ended, so that the time since its start is what it took, also if the clock was set meanwhile."""
        set_us = now.set_us - self.set_us
        end_us = now.wall_us - set_us if set_us else max(now.wall_us, self.ended_at_us)
        return max(end_us, self.run.started_at_us or 0)

    def wait_ended_us(self, attempt: AttemptRecord, now: Instant) -> int:
        """Return when an attempt without a process ended, likewise."""
        return max(now.wall_us - self.rows.set_during(attempt.task_no, now), attempt.started_at_us)

    def release_retries(self, now: Instant) -> None:
        """Make ready whatever has waited long enough for its retry."""
        for number in self.ready.take_due(now.mono_s):
            if self.tasks[number].status is TaskState.PENDING:
                self._make_ready(number)

    def start_next(self, now: Instant) -> int:
        """Move the next ready task to running, and return its number."""
        number = self.ready.next_process()
        self.running.add(number)
        self.rows.start(number, now)
        return number

    def start_alone(self, now: Instant) -> tuple[int, float]:
        """Move the task with the shortest time apart to running; return its number, and that time in seconds."""
        alone_s, number = self.ready.next_alone()
        self.running.add(number)
        self.rows.start(number, now)
        return number, alone_s

    def put_back(self, number: int, now: Instant) -> None:
        """Have a task wait again whose attempt never became a process: it counts as not tried."""
        self.running.discard(number)
        self.rows.put_back(number)
        if self.cancelling:
            self._finish(number, TaskState.CANCELLED, now=now)
        else:
            self._make_ready(number)  # or have it cancelled, if it is one that is

    def next_wait(self) -> int:
        """Take the next ready task that takes no slot; ``start_wait``, a hold or ``end`` comes next."""
        return self.ready.next_wait(dags=not self.full)

    def hold_wait(self, number: int, why: str, *, until_s: float) -> None:
        """Put a task back that finds no place, and start no other of this run that waits for a while."""
        self.ready.put_back_wait(number)
        self.waits_due_s = until_s
        self.rows.explain(number, why)

    def start_wait(
        self, number: int, now: Instant, *, child_run_id: str | None = None, due_at_us: int | None = None
    ) -> None:
        """Move a task to running that holds no slot: it waits for its child run, or until it is due."""
        if child_run_id is not None:
            self.children[number] = child_run_id
        elif due_at_us is not None:
            self.waits.add(number)
        self.rows.start(number, now, child_run_id=child_run_id, due_at_us=due_at_us)

    def end(
        self,
        number: int,
        status: AttemptState,
        *,
        now: Instant,
        jitter: float | None,
        exit_code: int | None = None,
        error: str | None = None,
        outputs: Mapping[str, Json] | None = None,
        code: int | None = None,
    ) -> None:
        """Take the end of a task's attempt at *now*, and decide what follows: done, tried again, given up.

        *code* is the exit status with which it ended by itself. *jitter* is for the wait before the next attempt; None: no
        other is tried.
        """
        self.ended_at_us = max(self.ended_at_us, now.wall_us)
        self.running.discard(number)
        self.children.pop(number, None)
        self.waits.discard(number)
        spec = self.specs[number]
        given_up = self.losses.take_end(number, status, limit=spec.max_losses) if self.losses else None
        error = given_up or error
        if status is AttemptState.COMPLETED and spec.skip_codes and code in spec.skip_codes:
            self._finish(number, TaskState.SKIPPED, now=now, exit_code=exit_code, outcome=Outcome.CODE)
            self._go_on(number, now)
        elif status is AttemptState.COMPLETED:
            self.output_bytes += size_of(outputs) if outputs else 0
            self._finish(number, TaskState.COMPLETED, now=now, exit_code=exit_code, outputs=outputs or {})
            self._go_on(number, now)
        elif status is AttemptState.CANCELLED or self.given_up or self.is_stopped(number):
            self._finish(number, TaskState.CANCELLED, now=now, exit_code=exit_code, error=error)
            if not self.given_up:  # but the run that the task was
                self._go_on(number, now)
        elif status is AttemptState.LOST and spec.on_lost is not OnLost.FAIL and given_up is None:
            self.rows.wait(number, None, exit_code=exit_code, error=error)
            self._make_ready(number)
        elif (
            status is AttemptState.FAILED
            and jitter is not None
            and self.tasks[number].failures < spec.max_retries
            and (not spec.retry_codes or code in spec.retry_codes)
        ):
            self._retry(number, now, jitter=jitter, exit_code=exit_code, error=error)
        else:
            allowed = Outcome.ALLOWED if spec.allow_failure and spec.allows(code) else None
            self._finish(number, TaskState.FAILED, now=now, exit_code=exit_code, error=error, outcome=allowed)
            self._go_on(number, now)

    def take_condition(self, number: int, now: Instant, *, holds: bool, error: str | None = None) -> None:
        """Take what the condition of an undecided task came to: it runs, is skipped, or is failed for an *error*."""
        if self.tasks[number].status is not TaskState.PENDING:
            return
        if error is not None:
            allowed = Outcome.ALLOWED if self.specs[number].allows(None) else None
            self._finish(number, TaskState.FAILED, now=now, error=error, outcome=allowed)
        elif not holds:
            self._finish(number, TaskState.SKIPPED, now=now, outcome=Outcome.CONDITION)
        else:
            part_of = self.tasks[number].part_of
            if part_of is not None:
                self.many[part_of].undecided.discard(number)
            self._offer(number)
            return
        self._go_on(number, now)

    def cancel_waiting(self, now: Instant) -> None:
        """Cancel every task that has not started; the running ones are for the loop to end."""
        self.cancelling = True
        self.ends_by_s = math.inf
        self.ready.clear()
        self._skips.clear()
        self.unmade.clear()
        self.undecided.clear()
        self._cancelled_up_to = 0
        self.work_off(now)

    def work_off(self, now: Instant, *, at_most: int = CHANGES_AT_ONCE) -> int:
        """Do up to *at_most* changes of what was decided for many tasks at once; return how many were done."""
        before = self.rows.changed
        end = before + at_most
        while self._skips and self.rows.changed < end:
            number, decision = self._skips.pop()
            if self.tasks[number].status is TaskState.PENDING:
                why, cause = decision.outcome, decision.because
                self._finish(number, TaskState.SKIPPED, now=now, blocked_by=cause, outcome=why)
                self._follow(number)
        while self._cancels and self.rows.changed < end:
            number = self._cancels.pop()
            if self.tasks[number].status is TaskState.PENDING:
                self._finish(number, TaskState.CANCELLED, now=now)
                self._follow(number)
        if self._cancelled_up_to is not None:
            number = self._cancelled_up_to
            while number < len(self.tasks) and self.rows.changed < end:
                if self.tasks[number].status is TaskState.PENDING:
                    self._finish(number, TaskState.CANCELLED, now=now)
                number += 1
            self._cancelled_up_to = number if number < len(self.tasks) else None
        return self.rows.changed - before

    def settle(self) -> Sequence[TaskRecord]:
        """Settle the verdict of a run that is over but for its handlers; return these, which are to be stored."""
        status = self.verdict()
        if not self.spec.handlers or self.settled is not None or status is None:
            return ()
        error = self.why_failed() if status is RunState.FAILED else None
        first = next((task for task in self.tasks if task.is_failure), None) if error is None else None
        told = error if first is None else f"task {first.task_id}: {first.error or 'failed'}"
        added = begun(self.spec, self.run, Verdict(status, error, told), first=len(self.tasks))
        if added:
            self.cancelling, self.ends_by_s = False, math.inf
            self.rows.add(added)
            self._note_added(added)
            self._make_ready(added[0].task_no)
        return added

    def _finish(self, number: int, status: TaskState, **how: Any) -> None:
        """Move a task to a final state; what was added may be waited for by another that was."""
        self.rows.finish(number, status, **how)
        if number < self.written:
            return
        part_of = self.tasks[number].part_of
        if part_of is not None:
            self._part_over(number, part_of, how["now"])
        elif number + 1 < len(self.tasks) and not self.cancelling:  # the handler behind it
            self._make_ready(number + 1)

    def make_many(self, number: int, made: Sequence[Instance], now: Instant) -> Sequence[TaskRecord]:
        """Move a task to running that is made into instances; return the rows of these, which are to be stored."""
        many, kept = self.many_of(number), [self.tasks[one] for one in self.many_of(number).numbers]
        self.rows.open(number, now)
        added = rows_of(self.tasks[number], made, first=len(self.tasks), there=kept)
        self.rows.add(added)
        self._note_added(added)
        for task in added:
            self._propose(task.task_no)
        if not many.open:
            self._end_many(number, now)
        return added

    def refuse(self, number: int, error: str, now: Instant) -> None:
        """Fail a task that cannot be begun."""
        self._finish(number, TaskState.FAILED, now=now, error=error)
        self._go_on(number, now)

    def take_stopped(self) -> list[int]:
        """Give up the instances that run and are to end, since another one has failed."""
        stopped, self.stopped = self.stopped, []
        return [number for number in stopped if self.tasks[number].status is TaskState.RUNNING]

    def _offer(self, number: int) -> None:
        """Have an instance start, unless as many of its task's are at work as may be."""
        task = self.tasks[number]
        many = None if task.part_of is None else self.many[task.part_of]
        if many is None or (not many.stopped and (many.has_place(task) or many.may_start(number))):
            self._make_ready(number)

    def _part_over(self, number: int, part_of: int, now: Instant) -> None:
        """See what follows the end of an instance: another gets its place, the others are to end, or its task is over."""
        many = self.many[part_of]
        following = many.take_end(number)
        if many.spec.fail_fast and not many.stopped and self.tasks[number].counts_as_failed and not self.given_up:
            self._stop(many)
        elif following is not None and not many.stopped:
            self._make_ready(following)
        if not many.open:
            self._end_many(part_of, now)

    def cancel_tasks(self, numbers: Sequence[int]) -> None:
        """Have tasks be cancelled by themselves, for which that was asked."""
        for number in numbers:
            if number in self.asked or self.tasks[number].status.final:
                continue
            self.asked.add(number)
            if number in self.unmade:
                self.unmade.remove(number)
            if number in self.many:
                self._stop(self.many[number])
            if number not in self.many or self.tasks[number].status is TaskState.PENDING:
                self._stop_these([number])

    def _stop(self, many: Many) -> None:
        """Have what is left of the instances of a task be cancelled."""
        many.stopped = True
        many.held.clear()
        self._stop_these(sorted(one for one in many.numbers if not self.tasks[one].status.final))

    def _stop_these(self, numbers: Sequence[int]) -> None:
        self.ready.drop(set(numbers))
        self.stopped += numbers
        self._cancels += numbers

    def _take_up_many(self, number: int, now: Instant) -> None:
        """Go on with a task whose instances are there."""
        many = self.many_of(number)
        failed = any(self.tasks[one].counts_as_failed for one in many.numbers) if many.spec.fail_fast else False
        if not many.open:
            self._end_many(number, now)
        elif (failed or number in self.asked) and not self.given_up:
            self._stop(many)

    def _end_many(self, number: int, now: Instant) -> None:
        """End a task whose instances are all over, and see what follows."""
        parts = [self.tasks[one] for one in self.many[number].numbers]
        status, outcome, error = end_of(parts, given_up=self.given_up)
        self._finish(number, status, now=now, outcome=outcome, error=error)
        if status is not TaskState.CANCELLED:
            self._go_on(number, now)

    def _make_ready(self, number: int) -> None:
        if self.cancelling:
            return  # it will be cancelled when its turn comes
        if self.is_stopped(number):
            self._cancels.append(number)
            return
        if number < self.written and self.specs[number].is_many:
            self.unmade.append(number)
        else:
            self.ready.add(number, self.specs[number])

    def _retry(self, number: int, now: Instant, *, jitter: float, exit_code: int | None, error: str | None) -> None:
        failures = self.tasks[number].failures + 1
        delay_s = self.specs[number].wait_before_retry_s(failures=failures, jitter=jitter)
        self.rows.wait(number, now.wall_us + round(delay_s * 1e6), failures=1, exit_code=exit_code, error=error)
        self.ready.retry(number, at_s=now.mono_s + delay_s)

    def _go_on(self, number: int, now: Instant) -> None:
        """See what follows a task that is over, and do some of it at once."""
        waits = self.backlog
        self._follow(number)
        if self._skips and not waits:
            self.work_off(now)

    def _follow(self, number: int) -> None:
        task = self.tasks[number]
        for child in self._graph.children[number] if number < self.written else ():
            self._upstream.take_end(child, task)
            if self.tasks[child].status is TaskState.PENDING:
                self._look(child)

    def _look(self, number: int) -> None:
        """Have a task start, or be skipped, if that is certain now."""
        decision = self._upstream.decide(number)
        if decision.step is Step.RUN:
            self._propose(number)
        elif decision.step is Step.SKIP and not self.given_up:
            self._skips.append((number, decision))

    def _propose(self, number: int) -> None:
        """Have a task start, once its condition was judged, if it has one."""
        task, spec = self.tasks[number], self.specs[number]
        if spec.when is None or task.attempts or (spec.is_many and is_for_instances(spec) is (task.part_of is None)):
            self._offer(number)
        elif not self.cancelling:
            self.undecided.append(number)
            if task.part_of is not None:
                self.many[task.part_of].undecided.add(number)
