"""What one turn of a worker's loop decides and writes, inside its transaction.

The order matters: control first, so that nothing starts of a run that was just paused; then new runs and ends, so
that what they make ready can start in the same turn; then the starts; then what became of whole runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice

from cis.engine.accept.admission import AGAIN_S, let_in, no_place
from cis.engine.accept.control import cancel
from cis.engine.outputs import no_room, size_of
from cis.engine.ports import Wait
from cis.engine.run.additions import make_many, settle, settle_all, stop_tasks
from cis.engine.run.children import ended_child, refusal, start_child
from cis.engine.run.claiming import take_queued
from cis.engine.run.conditions import judge_conditions
from cis.engine.run.effects import NEVER, Effects, Start
from cis.engine.run.ends import End, failed
from cis.engine.run.parts import ChildWait, Holdings, LoopLimits, WorkerPorts, beat
from cis.engine.run.plan import CHANGES_AT_ONCE, RunPlan
from cis.engine.run.starts import choose_starts
from cis.engine.run.turn import Turn
from cis.engine.run.waits import cancelled, due_at_us, resumed, time_limit_s
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.engine.transitions import move_run
from cis.errors import CisError, OverloadedError, PoisonRecordError
from cis.model.states import AttemptState, RunState
from cis.store.records import AttemptRecord, LeftProcess, QueueState, RunChange, RunRecord

log = logging.getLogger(__name__)

CHILDREN_AT_ONCE = 50  # child runs that are begun, or whose ends are taken, in one turn
POLL_S = 1.0
CONTROL_PAUSE_S = 0.0003  # for each run that is held
LONGEST_CONTROL_PAUSE_S = 0.02


def decide(
    parts: WorkerPorts,
    limits: LoopLimits,
    me: Incarnation,
    held: Holdings,
    *,
    ends: Sequence[End],
    poll: bool,
    claim: bool = True,
    now: Instant,
) -> Effects:
    """Take *ends*, look around if *poll*, for new runs too if *claim*, and write all that follows.

    Return what is to be done once that is committed.

    Raises:
        FencedError: another epoch holds the worker's id.
    """
    turn = Turn(parts, limits, me, held, now=now)
    if not turn.undisturbed:
        parts.store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
    steps = _Steps(turn)
    if poll:
        # Many runs that come and end have the worker look around all the time: the more it holds, the longer it is before
        # it asks for each of them again. Whatever starts meanwhile is asked for by itself (``Turn.held_back``).
        if held.control_due_s <= now.mono_s:
            held.poll_due_s = now.mono_s + POLL_S
            held.control_due_s = now.mono_s + min(CONTROL_PAUSE_S * len(held.plans), LONGEST_CONTROL_PAUSE_S)
            steps.look_at_control()
        else:
            held.poll_due_s = held.control_due_s
        if claim and not held.stopping:
            steps.look_at_new(take_queued(parts, limits, me, held, ends=ends, now=now))
        steps.look_at_children()
    steps.record_ends(ends)
    steps.end_late_runs()
    steps.cancel_waits()
    steps.work_off()
    settle_all(turn)
    if held.ahead:
        steps.look_at_ahead()
    if held.unstarted:
        steps.put_back()
    starts: list[Start] = []
    if not held.stopping:
        steps.release_retries()
        make_many(turn)
        steps.start_waits()
        starts = choose_starts(turn, ends=ends if claim else ())
    steps.record_ends(stop_tasks(turn))
    steps.write_tasks()
    steps.end_runs()
    beat(parts.store.workers, limits, me, held, now=now)
    held.keep_unstarted(start.attempt for start in (*starts, *turn.ahead))
    return turn.effects(starts)


def claim_only(
    parts: WorkerPorts, limits: LoopLimits, me: Incarnation, held: Holdings, *, ends: Sequence[End], now: Instant
) -> None:
    """Take queued runs, and do nothing about them yet; *ends* are those that are still to be stored.

    Raises:
        FencedError: another epoch holds the worker's id.
    """
    parts.store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
    if not held.stopping:
        take_queued(parts, limits, me, held, ends=ends, now=now)


class _Steps:
    """The steps of ``decide``, over one worker's holdings at one moment."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._parts = turn.parts
        self._store = turn.store
        self._held = turn.held
        self._now = turn.now

    def look_at_control(self) -> None:
        """Act on what control wrote into the runs that this worker holds, and stop those whose lease is over."""
        for plan in list(self._held.plans.values()):
            if self._held.leases.over(self._store, plan.run, now=self._now):
                self._suspend(plan)
            else:
                self._turn.refresh(plan)
                plan.note_begin(self._now)

    def look_at_new(self, run_ids: Sequence[str]) -> None:
        """Act on what control wrote into runs that were just taken."""
        self._turn.note_read(run_ids)
        for run_id in run_ids:
            self._turn.refresh(self._held.plans[run_id])

    def look_at_children(self) -> None:
        """End each DAG as a task whose child run is over, and cancel the child of one whose time is."""
        held = self._held
        if not held.children:
            return
        ids = [held.plans[run_id].children[number] for run_id, number in held.children]
        heads = self._store.runs.heads(ids)
        left = CHILDREN_AT_ONCE
        for (run_id, number), wait in list(held.children.items()):
            plan = held.plans[run_id]
            head = heads.get(plan.children[number])
            if head is None or head.is_over:
                if not left:
                    held.poll_due_s = self._now.mono_s
                    continue
                left -= 1
                end = ended_child(self._store, wait, plan, now=self._now)
                del held.children[run_id, number]
                self.record_ends([end])
            elif wait.due_s <= self._now.mono_s and not wait.timed_out:
                wait.timed_out = True
                self._turn.rings.add(cancel(self._store, plan.children[number], now_us=self._now.wall_us).worker_id)
                self._turn.disturb()

    def record_ends(self, ends: Sequence[End]) -> None:
        """Store how attempts ended, and let the plans decide what follows.

        An end of a run that is not held any more, since its rows could not be read, is nobody's: all is stored.
        """
        alone = self._held.alone
        if alone is not None and any(end.attempt[:4] == alone[0][:4] for end in ends):
            self._held.alone = None
        stored: list[AttemptRecord] = []
        all_left: list[LeftProcess] = []
        for plan, end in ((self._held.plans.get(end.attempt.run_id), end) for end in ends):
            if plan is None:
                continue
            attempt, outputs, code = end.attempt, end.outputs, end.code
            all_left += end.left
            if outputs and (why := no_room(size_of(outputs), plan.output_bytes)):
                attempt, outputs, code = attempt._replace(status=AttemptState.FAILED, error=why), {}, None
            plan.end(
                attempt.task_no,
                attempt.status,
                now=self._now._replace(wall_us=attempt.finished_at_us or self._now.wall_us),
                jitter=None if end.hopeless else self._parts.jitter(),
                exit_code=attempt.exit_code,
                error=attempt.error,
                outputs=outputs,
                code=code,
            )
            stored.append(attempt)
        self._store.attempts.finish(stored, left=all_left)

    def end_late_runs(self) -> None:
        """Begin to end the runs whose time limit is over; a worker that stops leaves that to the next."""
        now_s = self._now.mono_s
        for plan in () if self._held.stopping else self._held.plans.values():
            if plan.ends_by_s <= now_s and plan.verdict() is None:
                self._turn.refresh(plan)
                if not plan.cancelling:
                    self._turn.time_out(plan)

    def cancel_waits(self) -> None:
        """End the waits of runs that are cancelled; the processes of such a run are ended after the commit."""
        for plan in self._held.plans.values():
            if plan.cancelling and plan.waits:
                keys = [(plan.run.run_id, number) for number in islice(sorted(plan.waits), CHANGES_AT_ONCE)]
                waits = [wait for wait in map(self._held.waits.pop, keys) if wait is not None]
                self.record_ends([cancelled(wait, plan, now=self._now) for wait in waits])

    def work_off(self) -> None:
        """Judge some conditions, and do some of what was decided for thousands of tasks at once; the rest in the next turns."""
        left = CHANGES_AT_ONCE
        for plan in self._held.plans.values():
            if plan.undecided:
                self._turn.mark_running(plan, self._now)
                judge_conditions(plan, self._parts.this_node, self._now)
            if plan.backlog and left > 0:
                left -= plan.work_off(self._now, at_most=left)

    def put_back(self) -> None:
        """Have what nobody began wait again: for a shortage, or since its commit was reported as failed."""
        ours = [attempt for attempt in self._held.unstarted if attempt.run_id in self._held.plans]
        for attempt in ours:
            self._held.plans[attempt.run_id].put_back(attempt.task_no, self._now)
            if self._held.alone is not None and self._held.alone[0][:4] == attempt[:4]:
                self._held.alone = None
        self._store.attempts.drop(ours)

    def look_at_ahead(self) -> None:
        """Have what was stored ahead wait again where it is not to start any more, or found no slot for too long."""
        held, now_s = self._held, self._now.mono_s
        alone = held.alone is not None or any(plan.alone_s < NEVER for plan in held.plans.values())
        for start in held.ahead:
            lives = held.plans.get(start.attempt.run_id) is start.plan and not (alone or held.stopping)
            if lives and now_s < start.begins_by_s and not self._turn.held_back(start.plan):
                self._turn.ahead.append(start)
            else:
                held.unstarted.append(start.attempt)

    def release_retries(self) -> None:
        """Make ready what has waited for its retry."""
        for plan in self._held.plans.values():
            plan.release_retries(self._now)

    def start_waits(self) -> None:
        """Begin every ready task that takes no slot; of a DAG as a task, record the child run."""
        left, tasks_left = CHILDREN_AT_ONCE, CHANGES_AT_ONCE
        for plan in self._held.plans.values():
            while plan.wants_wait and plan.waits_due_s <= self._now.mono_s and not self._turn.held_back(plan):
                if not left or tasks_left <= 0:
                    self._held.poll_due_s = self._now.mono_s
                    return
                left -= 1
                tasks_left -= self._start_wait(plan)

    def write_tasks(self) -> None:
        """Store every change of a task, in the order in which they were decided."""
        for plan in self._held.plans.values():
            if plan.rows.changed:
                self._turn.write(plan)

    def end_runs(self) -> None:
        """Store the end of each run that has nothing left to do, and wake whoever waits for it."""
        for plan in self._held.plans.values():
            if plan.verdict() is None:
                continue
            self._turn.refresh(plan)
            verdict = plan.verdict()
            if verdict is None:
                continue
            if plan.spec.handlers and plan.settled is None and settle(self._turn, plan):
                self._held.poll_due_s = self._now.mono_s
                continue
            if verdict is RunState.COMPLETED:
                self._turn.mark_running(plan, self._now)  # even if there was nothing to start
            finished_at_us = plan.finish_us(self._parts.clock())
            error = plan.why_failed() if verdict is RunState.FAILED else None
            change = RunChange(status=verdict, finished_at_us=finished_at_us, error=error)
            plan.run = move_run(self._store, plan.run, change, at_us=finished_at_us)
            self._store.queue.remove(plan.run.run_id)
            if self._parts.this_node.rules_of(plan.run.scope).max_runs is not None:
                let_in(self._store.queue, self._turn.me.worker_id, this_node=self._parts.this_node)
            self._turn.ended.add(plan.run.run_id)
            self._ring_parent(plan.run)

    def _ring_parent(self, run: RunRecord) -> None:
        if run.parent_run_id is None:
            return
        try:
            parent = self._store.runs.get(run.parent_run_id)
        except PoisonRecordError as error:
            log.error("nobody can be told of the end of a run", extra={"run_id": run.run_id, "error": str(error)})
            return
        if parent is not None:
            self._turn.rings.add(parent.worker_id)

    def _suspend(self, plan: RunPlan) -> None:
        """End what runs of a run, and keep it in the queue until the node that granted it says more.

        Its attempts stay without an end until then, and are lost when it is taken up again.
        """
        run_id = plan.run.run_id
        log.warning("a lease is over: a run is suspended", extra={"run_id": run_id})
        self._turn.suspended.add(run_id)
        self._held.forget_waits(run_id)
        del self._held.plans[run_id]
        self._store.queue.move(run_id, QueueState.SUSPENDED)

    def _start_wait(self, plan: RunPlan) -> int:
        """Begin the next task that takes no slot; return how many tasks were stored."""
        number = plan.next_wait()
        task = plan.task_spec(number)
        if plan.full and task.skill in plan.ready.dag_skills:
            plan.ready.hold_dag(number)
            return 0
        begun = self._turn.begun()
        self._turn.mark_running(plan, begun)
        try:
            planned = self._parts.maker.wait(plan, number)
            if isinstance(planned, Wait):
                plan.start_wait(number, begun, due_at_us=due_at_us(planned, begun))
                self._held.waits.add(resumed(plan, self._stored(plan, number, begun), now=self._now, wait=planned))
                return 1
            plan.ready.dag_skills.add(task.skill or "")
            if plan.full:
                plan.ready.hold_dag(number)
                return 0
            run = start_child(self._parts, plan, planned, number=number, before=plan.tasks[number].child_run_id)
        except OverloadedError as error:
            plan.hold_wait(number, no_place(error), until_s=self._now.mono_s + AGAIN_S)
            return 0
        except CisError as error:
            reason = refusal(error)
            plan.start_wait(number, begun)
            self.record_ends([failed(self._stored(plan, number, begun), reason, at_us=begun.wall_us)])
            return 0
        plan.start_wait(number, begun, child_run_id=run.run_id)
        attempt = self._stored(plan, number, begun)
        due_s = time_limit_s(plan, attempt, now=self._now)
        self._held.children[plan.run.run_id, number] = ChildWait(attempt, due_s)
        self._turn.rings.add(run.worker_id)
        return run.task_count

    def _stored(self, plan: RunPlan, number: int, begun: Instant) -> AttemptRecord:
        """Return the attempt of a task that was just moved to running, and store it."""
        attempt = self._turn.attempt(plan, number, begun)
        self._store.attempts.start([attempt])
        return attempt
