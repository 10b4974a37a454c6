"""Taking over what an earlier process of the same worker id left behind, and setting aside what is unreadable.

Whoever takes a worker's id gets the next epoch, and with it every run that an older epoch held or that was put
back into the queue when a dead worker was buried. A task whose
start is on disk without an end is *lost* (unless its process is one of ours): its attempt is kept, marked so,
and the task's ``on_lost`` decides what follows. The orphaned process was ended before (``OrphanKiller``).

With ``on_lost: adopt`` the attempt went on by itself. The executor is asked what became of it, by its handle, once the
run is held (``ask``): it runs, and is one of this worker's from now on; it has ended, and this is how; it is gone, and
so lost; or that cannot be told now. What is not known is not lost: it is asked for again, and the task says why.

What the id holds may be large, so it is taken over in several transactions (``cis.engine.run.claiming``): the epoch
first, then run after run. Until its run is one of those that are held, nothing is decided about an attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from cis.engine.logfiles import script_beside
from cis.engine.lookup import is_stale
from cis.engine.outputs import forget_outputs
from cis.engine.ports import Executor, Exit, Fate, attempt_handle
from cis.engine.run.attempts import AttemptMaker, attempt_marks
from cis.engine.run.ends import End
from cis.engine.run.live import Ending, Live
from cis.engine.run.parts import ChildWait, Holdings, WorkerPorts
from cis.engine.run.plan import RunPlan
from cis.engine.run.reading import RunReading
from cis.engine.run.waits import TaskWait, resumed, time_limit_s
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.engine.transitions import move_tasks
from cis.engine.transitions import set_aside as end_unread
from cis.errors import PoisonRecordError, StoreRefusedError
from cis.model.dag import OnLost
from cis.model.states import AttemptState
from cis.store.port import Store
from cis.store.records import AttemptRecord, QueuedRun, QueueState, RunRecord

log = logging.getLogger(__name__)

AttemptKey = tuple[str, int, int]
LOST = "the worker died while it ran"
ASK_AGAIN_S = 1.0


def take_over(store: Store, me: Incarnation) -> list[QueuedRun]:
    """Make every run that the worker id holds one of this epoch, and return them; none is read.

    Raises:
        FencedError: *me* is not the current epoch.
    """
    store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
    return list(store.queue.hand_over(me.node_id, me.worker_id, epoch=me.epoch))


def unended(store: Store, attempt: AttemptRecord) -> bool:
    """Whether the store lacks the end of an attempt: a commit that was reported as failed may be there after all."""
    found = store.attempts.get(attempt.run_id, attempt.task_no, attempt.attempt)
    return found is not None and found.status is AttemptState.RUNNING


def hold(store: Store, held: Holdings, reading: RunReading, *, ours: AbstractSet[AttemptKey], now: Instant) -> None:
    """Make a claimed run one of *held*, of which *reading* may have been read before; *ours* as its ends are to come.

    One that cannot be read is failed and taken off the queue instead; one whose lease is over is suspended.
    """
    run_id, begun = reading.run_id, reading.begun
    try:
        reading.finish()
        run = _as_it_is_now(store, reading) if begun else reading.run
        plan = reading.plan
        if run is None or run.status.final or plan is None:
            store.queue.remove(run_id)
            return
        if held.leases.over(store, run, now=now):
            store.queue.move(run_id, QueueState.SUSPENDED)
            return
        plan.run = run
        if reading.attempts:
            with store.savepoint():
                _take_up(store, held, plan, reading.attempts, ours=ours, now=now)
    except (PoisonRecordError, StoreRefusedError) as error:
        log.error("a run was set aside", extra={"run_id": run_id, "error": str(error)})
        set_aside(store, run_id, worker_id=reading.worker_id, why=str(error), now_us=now.wall_us)
        return
    held.plans[run_id] = plan


def _take_up(
    store: Store,
    held: Holdings,
    plan: RunPlan,
    attempts: Mapping[int, AttemptRecord | None],
    *,
    ours: AbstractSet[AttemptKey],
    now: Instant,
) -> None:
    """Go on with what waits, and lose the attempts whose end nobody will tell."""
    run_id = plan.run.run_id
    waits: dict[tuple[str, int], ChildWait] = {}
    timed: list[TaskWait] = []
    for number, attempt in attempts.items():
        if number in plan.children and attempt is not None:
            waits[run_id, number] = ChildWait(attempt, time_limit_s(plan, attempt, now=now))
        elif attempt is not None and _key(attempt) in ours:
            continue
        elif number in plan.waits and attempt is not None and attempt.status is AttemptState.RUNNING:
            timed.append(resumed(plan, attempt, now=now))
        elif attempt is not None and plan.task_spec(number).on_lost is OnLost.ADOPT:
            held.asked[_key(attempt)] = (attempt, now.mono_s)
        else:
            _lose(store, plan, attempt, number=number, now=now)
    move_tasks(store, plan.run, plan.rows.take_changes(), at_us=now.wall_us)
    held.children |= waits
    for wait in timed:
        held.waits.add(wait)


def ask(parts: WorkerPorts, held: Holdings, *, now: Instant) -> tuple[list[End], list[Exit]]:
    """Ask the executor for lasting attempts when it is time; return those that are lost, and how others have ended."""
    lost: list[End] = []
    exits: list[Exit] = []
    for key, (attempt, due_s) in list(held.asked.items()):
        plan = held.plans.get(attempt.run_id)
        if plan is None or attempt.task_no not in plan.running:
            del held.asked[key]  # its run is not held any more: whoever takes that up asks anew
            continue
        if due_s > now.mono_s:
            continue
        handle = attempt_handle(*key)
        marks = attempt_marks(attempt.run_id, attempt.task_id, attempt.attempt)
        found = parts.executor.take_up(handle, marks=marks)
        if found.fate is Fate.UNKNOWN:
            held.asked[key] = (attempt, now.mono_s + ASK_AGAIN_S)
            plan.rows.explain(attempt.task_no, f"it may still run, and nobody can tell now: {found.why}")
            continue
        del held.asked[key]
        plan.rows.explain(attempt.task_no, None)
        if found.fate is Fate.GONE:
            lost.append(End(_lost(attempt, now=now), {}))
            continue
        held.live.add(handle, _live(parts, plan, attempt, now=now))
        if plan.cancelling or plan.is_stopped(attempt.task_no):
            held.live.end(handle, Ending.CANCEL, now_s=now.mono_s)
        if found.exit is not None:
            exits.append(found.exit)
    return lost, exits


def forget_kept(executor: Executor, ends: Iterable[End]) -> None:
    """Remove what was kept of lasting attempts until now, when their ends are stored."""
    for end in ends:
        if end.kept is not None:
            handle, outputs = end.kept
            executor.forget(handle)
            forget_outputs(outputs)


def sweep(maker: AttemptMaker, held: Holdings, swept: set[str]) -> None:
    """Remove what attempts with secrets of an earlier process left, once for each run that is held."""
    if swept.issuperset(held.plans):
        return
    keep = {_key(live.attempt) for live in held.live} | held.asked.keys()
    for run_id in held.plans.keys() - swept:
        maker.sweep(held.plans[run_id], keep=keep)
        swept.add(run_id)


def _live(parts: WorkerPorts, plan: RunPlan, attempt: AttemptRecord, *, now: Instant) -> Live:
    """Return an attempt that was started by another worker; its outputs were masked by whoever kept its logs."""
    ago_us = max(0, now.wall_us - attempt.started_at_us)
    files, task = parts.maker.logfiles.paths(*_key(attempt)), plan.task_spec(attempt.task_no)
    return Live(
        attempt=attempt,
        started_s=now.mono_s - ago_us / 1e6,
        started_up_us=parts.this_node.uptime_us() - ago_us,
        timeout_s=task.timeout_s,
        good_codes=task.good_codes,
        outputs=files.outputs,
        script=script_beside(files.outputs),
        pid_stored=attempt.pid is not None,
        lasting=True,
        captured=None if task.output is None else (task.output, files.stdout),
    )


def _as_it_is_now(store: Store, reading: RunReading) -> RunRecord | None:
    """Return the run, whose row others may have changed since it was read; its tasks and attempts are as they were."""
    run = reading.run
    if run is None or not is_stale(store.runs, run):
        return run
    return store.runs.get(run.run_id)


def _lose(store: Store, plan: RunPlan, attempt: AttemptRecord | None, *, number: int, now: Instant) -> None:
    if attempt is not None and attempt.status is AttemptState.RUNNING:
        store.attempts.finish([_lost(attempt, now=now)])
    plan.end(number, AttemptState.LOST, now=now, jitter=0.0, error=LOST)


def _lost(attempt: AttemptRecord, *, now: Instant) -> AttemptRecord:
    finished_at_us = max(now.wall_us, attempt.started_at_us)
    return attempt._replace(status=AttemptState.LOST, error=LOST, finished_at_us=finished_at_us)


def _key(attempt: AttemptRecord) -> AttemptKey:
    return (attempt.run_id, attempt.task_no, attempt.attempt)


def set_aside(store: Store, run_id: str, *, worker_id: str, why: str, now_us: int) -> None:
    """Fail a run and take it off the queue; one whose rows refuse even that is kept where no worker takes it."""
    try:
        with store.savepoint():
            end_unread(store, run_id, error=why, at_us=now_us, worker_id=worker_id)
    except StoreRefusedError as error:
        log.error("a run cannot be failed: it stays in the queue", extra={"run_id": run_id, "error": str(error)})
        store.queue.move(run_id, QueueState.SUSPENDED)
