"""Watches a history while it happens: every row that changes, every commit, every process that begins.

The rows are watched by triggers in the connection itself, so that two changes in one transaction are seen as two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import apsw

from cis.engine.ports import attempt_of_handle
from cis.engine.run.plan import RunPlan
from cis.model.states import RunState, TaskState
from tests.chaos.simulation.conditions import comes_to, outcome_of, upstream
from tests.chaos.simulation.processes import Process, Processes
from tests.chaos.simulation.rows import AttemptKey, Change, Rows, Specs, read_changes, read_rows
from tests.chaos.simulation.stage import Stage
from tests.worlds.arrows import LEGAL_RUN, LEGAL_TASK

TRIGGERS = """
CREATE TEMP TRIGGER watch_runs AFTER UPDATE OF status, version, cancel_requested, finished_at_us, error ON main.dag_runs BEGIN
  SELECT saw_run(OLD.run_id, OLD.version, NEW.version, OLD.status, NEW.status, OLD.cancel_requested, NEW.cancel_requested);
END;
CREATE TEMP TRIGGER watch_tasks AFTER UPDATE ON main.run_tasks BEGIN
  SELECT saw_task(OLD.run_id, OLD.task_no, OLD.task_id, OLD.version, NEW.version, OLD.status, NEW.status,
    NEW.attempts - OLD.attempts, NEW.failures - OLD.failures, OLD.error IS NOT NEW.error);
END;
CREATE TEMP TRIGGER watch_attempts AFTER UPDATE ON main.task_executions BEGIN
  SELECT saw_attempt(OLD.run_id || '.' || OLD.task_id || '.' || OLD.attempt, OLD.status, NEW.status);
END;
CREATE TEMP TRIGGER keep_runs BEFORE DELETE ON main.dag_runs BEGIN SELECT saw_loss(OLD.run_id); END;
CREATE TEMP TRIGGER keep_tasks BEFORE DELETE ON main.run_tasks BEGIN SELECT saw_loss(OLD.run_id); END;
CREATE TEMP TRIGGER keep_attempts BEFORE DELETE ON main.task_executions BEGIN
  SELECT saw_taken_back(OLD.run_id, OLD.task_id, OLD.attempt, OLD.status);
END;
"""
FINAL = ("completed", "failed", "cancelled", "skipped")


class BrokenError(AssertionError):
    """An invariant does not hold."""


def demand(holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise BrokenError unless it holds."""
    if not holds:
        raise BrokenError(what)


class Offices(Protocol):
    """What is to be known of the workers."""

    def cancelling(self, run_id: str) -> RunPlan | None: ...

    def minded(self, worker_id: str, epoch: int) -> bool: ...


@dataclass(slots=True)
class Promises:
    """What clients were told: runs that were accepted, by key, and those whose cancel was; and runs that were damaged."""

    accepted: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    spoilt: set[str] = field(default_factory=set)


class Watch:
    """Knows the last committed rows, and demands at each change that the invariants hold."""

    def __init__(self, stage: Stage, processes: Processes, offices: Offices, promises: Promises) -> None:
        self._stage = stage
        self._processes = processes
        self._offices = offices
        self._promises = promises
        self.rows = Rows()
        self._seq = 0  # of the last event that was looked at
        self.specs = Specs()
        self.slots: dict[str, int] = {}
        self._cancelling: dict[str, RunPlan] = {}  # runs of which a worker knows, by this plan, that they are cancelled
        self.spawned: set[tuple[str, str, str]] = set()

    def prepare(self, connection: apsw.Connection) -> None:
        """Watch the rows that a connection changes."""
        connection.create_scalar_function("saw_run", _saw_run)
        connection.create_scalar_function("saw_task", self._saw_task)
        connection.create_scalar_function("saw_attempt", _saw_attempt)
        connection.create_scalar_function("saw_loss", _saw_loss)
        connection.create_scalar_function("saw_taken_back", self._saw_taken_back)
        connection.execute(TRIGGERS)

    def committed_by(self, who: str, *, incarnation: Callable[[], tuple[str, int] | None]) -> Any:
        """Return what a store calls after each commit of *who*, a worker under an epoch or somebody else."""

        def committed(connection: apsw.Connection) -> None:
            self._committed(connection, who, incarnation())

        return committed

    def _committed(self, connection: apsw.Connection, who: str, incarnation: tuple[str, int] | None) -> None:
        old, new = self.rows, read_rows(connection)
        self.specs.learn(connection, new)
        self._told(read_changes(connection, after=self._seq), old, new)
        if new == old:
            return
        self.rows = new
        if incarnation is not None:
            self._wrote(who, *incarnation, old=old)
        self._log(who, old, new)
        for key in sorted(new.attempts.keys() - old.attempts.keys()):
            self._began(key, old)
        for worker_id, (epoch, status) in new.workers.items():
            demand(status != "dead" or not self._offices.minded(worker_id, epoch), f"{worker_id} lives, and was buried")
        ended = {run_id for run_id in old.unfinished if new.runs[run_id].status in FINAL}
        self._ended(ended - self._promises.spoilt, old)
        unended = [key for key in new.running if key[0] in ended]
        demand(not unended, f"runs are over, but of their attempts {unended} have no end")
        for run_id in sorted(new.runs.keys() - old.runs.keys()):
            demand(
                run_id in new.queue or new.runs[run_id].status in FINAL,
                f"run {run_id} was accepted, but nobody will run it",
            )
        known = {run_id: self._offices.cancelling(run_id) for run_id, run in new.runs.items() if run.cancel}
        self._cancelling = {run_id: plan for run_id, plan in known.items() if plan is not None}

    def _told(self, changes: Sequence[Change], old: Rows, new: Rows) -> None:
        """Each version of a row has one event, in order, and the last one tells of the row as it is."""
        told: dict[tuple[str, str | None], list[Change]] = {}
        for change in changes:
            self._seq = change.seq
            told.setdefault((change.run_id, change.task_id), []).append(change)
        for run_id, run in new.runs.items():
            before = old.runs[run_id].version if run_id in old.runs else 0
            versions = [change.version for change in told.get((run_id, None), [])]
            demand(versions == list(range(before + 1, run.version + 1)), f"run {run_id} is told of in {versions}")
            last = told.pop((run_id, None), [])[-1:]
            demand(all(one.status == run.status for one in last), f"run {run_id} is {run.status}, and told as {last}")
        for (run_id, number), task in new.tasks.items():
            task_id = task.task_id
            unseen = 0 if task.given and run_id in old.runs else 1  # a task that is added has an event of its own
            before = old.tasks[run_id, number].version if (run_id, number) in old.tasks else unseen
            events = told.pop((run_id, task_id), [])
            name, count = f"task {run_id}.{task_id}", task.version - before
            demand(len(events) == count, f"{name} changed {count} times, and has {len(events)} events: {task}")
            true = all((one.status, one.attempts) == (task.status, task.attempts) for one in events[-1:])
            demand(true, f"{name} is {task}, and told as {events}")
        demand(not told, f"events tell of {list(told)}, which there is not")

    def _wrote(self, who: str, worker_id: str, epoch: int, *, old: Rows) -> None:
        now_epoch, status = old.workers[worker_id]
        demand((now_epoch, status != "dead") == (epoch, True), f"{who} wrote under an epoch that is over")
        for process in self._processes.live:
            # A plan that saw it before this commit; when that commit is reported as failed, the plan is made anew.
            plan = self._cancelling.get(process.marks[0])
            sees = plan is not None and plan is self._offices.cancelling(process.marks[0])
            forgotten = process.owner == who and sees and not process.signalled
            demand(not forgotten, f"{process.name} goes on though {who} knows that its run is cancelled")
        for key, row in self.rows.attempts.items():
            if row.status == "lost" and old.attempts.get(key, row).status == "running":
                self._lost_lasting(who, key, old)
            lost = row.status == "lost" and row.epoch == epoch and row.worker_id == worker_id
            if lost and key[0] not in self._promises.spoilt and old.attempts.get(key, row).status == "running":
                self._lost(who, key)

    def _saw_taken_back(self, *columns: Any) -> None:
        """An attempt may be taken back that no process was ever started for: its commit was reported as failed."""
        run_id, task_id, attempt, status = columns
        marks = (run_id, task_id, str(attempt))
        begun = status != "running" or any(one.marks == marks for one in self._processes.all)
        demand(not begun, f"attempt {'.'.join(marks)} was begun, and its row was deleted")

    def _saw_task(self, *columns: Any) -> None:
        run_id, number, task_id, *rest = columns
        whole = (run_id, number) in self.rows.tasks and self.specs.task(self.rows, run_id, number).is_many
        instance = (run_id, number) in self.rows.tasks and self.rows.tasks[run_id, number].part_of is not None
        _saw_task(f"{run_id}.{task_id}", *rest, has_attempts=instance or not whole)

    def _lost(self, who: str, key: AttemptKey) -> None:
        """A worker may lose what it started itself only if it asked it to end, in vain or not, or never began it."""
        task_id = self.rows.tasks[key[:2]].task_id
        marks = (key[0], task_id, str(key[2]))
        seen = [one for one in self._processes.all if one.marks == marks and one.dead_s is not None]
        itself = any(one.ended_by == "itself" and not one.signalled and one.guarded == one.lasting for one in seen)
        demand(not itself, f"{who} lost the end of {'.'.join(marks)}, which it had seen")

    def _lost_lasting(self, who: str, key: AttemptKey, old: Rows) -> None:
        """What a guardian leads goes on, or its end is found: it is lost only with a run that is cancelled unheld."""
        held = old.queue.get(key[0], ("", 0))[0] == "claimed" or not self.rows.runs[key[0]].cancel
        if key[0] in self._promises.spoilt or not held:
            return
        task_id = self.rows.tasks[key[:2]].task_id
        led = [one.name for one in self._processes.all if one.marks == (key[0], task_id, str(key[2])) and one.guarded]
        demand(not led, f"{who} lost {led}, which goes on or whose end is kept")

    def forgets(self, handle: str) -> None:
        """Look at a lasting attempt of which nothing is kept from now on."""
        named = attempt_of_handle(handle)
        row = None if named is None else self.rows.attempts.get(named)
        demand(row is None or row.status != "running", f"what is kept of {handle} is removed before its end is stored")
        left = [process.name for process in self._processes.live if process.handle == handle and process.guarded]
        demand(not left, f"what is kept of {left} is removed, and they live")

    def _ended(self, run_ids: set[str], old: Rows) -> None:
        left = []
        for process in [one for one in self._processes.live if one.marks[0] in run_ids]:
            held = old.queue.get(process.marks[0], ("", 0))[0] == "claimed"
            if process.lasting and not held and self.rows.runs[process.marks[0]].status == "cancelled":
                self._processes.hang(process)  # the node has to end it at its next look
            else:
                left.append(process.name)
        demand(not left, f"a run is over, but {left} still live")

    def _began(self, key: AttemptKey, old: Rows) -> None:
        run_id, number, attempt = key
        name, new = f"attempt {run_id}.{number}.{attempt}", self.rows
        before = old.runs.get(run_id)
        if before is not None:
            handler = new.tasks[run_id, number].task_id.startswith("handlers.")
            over = before.cancel > (1 if handler else 0)
            demand(not over, f"{name} began after its run was cancelled")
            # Seen before this commit: within one, a child may be started before its parent is looked at.
            seen = before.parent in self._cancelling and not handler
            demand(not seen, f"{name} began though {before.parent}, which it is a task of, was seen to be cancelled")
            goes_on = before.status in ("pending", "running") or (
                handler and new.runs[run_id].cancel > 0
            )  # it goes on with it
            demand(goes_on, f"{name} began while its run was {before.status}")
        spec, before_it = self.specs.task(new, run_id, number), upstream(new, self.specs, run_id, number)
        demand(
            outcome_of(spec, before_it) == "run", f"{name} began when {before_it}, with the rule {spec.trigger_rule}"
        )
        holds = comes_to(spec, new.tasks[run_id, number])
        demand(holds is True, f"{name} began though its condition comes to {holds}")
        earlier = [(one, row.status) for one, row in new.of_task(run_id, number) if one != attempt]
        demand([one for one, _ in earlier] == list(range(1, attempt)), f"{name} began after {earlier}")
        demand(all(status != "running" for _, status in earlier), f"{name} began while an earlier one was running")
        demand(all(status != "completed" for _, status in earlier), f"{name} began though one had completed")
        limit = self.specs.of(new, run_id).max_parallel
        tasks = [one for one in new.running if one[0] == run_id and self.specs.task(new, *one[:2]).skill is None]
        demand(limit is None or len(tasks) <= limit, f"run {run_id} has {len(tasks)} tasks at once, not {limit}")

    def spawns(self, owner: str, marks: tuple[str, str, str], env: Mapping[str, str]) -> None:
        """Look at a process that is about to exist."""
        run_id, task_id, attempt = marks
        name = f"the process of {'.'.join(marks)}"
        self._processes.act()
        number = self.rows.number(run_id, task_id)
        row = self.rows.attempts.get((run_id, number, int(attempt)))
        demand(row is not None and row.status == "running", f"{name} began, but its start is not on disk: {row}")
        demand(marks not in self.spawned, f"{name} began twice")
        self.spawned.add(marks)
        beside = [process.name for process in self._processes.live if process.marks[:2] == marks[:2]]
        demand(not beside, f"{name} began while {beside} still lived")
        mine = [process for process in self._processes.live if process.owner == owner or self._is_asked(process, owner)]
        demand(len(mine) < self.slots[owner], f"{name} began, but every slot is taken")
        if "TOKEN" in env:
            self._took(env["TOKEN"], name)

    def _is_asked(self, process: Process, owner: str) -> bool:
        """Whether a lasting attempt is the worker's, which knows that it may run, and has not taken it up yet."""
        queued = self.rows.queue.get(process.marks[0], ("", 0))[0]
        ours = owner.partition("/")[0] == process.owner.partition("/")[0]
        return process.lasting and queued == "claimed" and ours

    def _took(self, token: str, name: str) -> None:
        """An output that a task was given is that of the one attempt whose success was accepted."""
        run_id, rest = token.split(".", 1)
        task_id, attempt = rest.rsplit(".", 1)
        number = self.rows.number(run_id, task_id)
        given = self.rows.attempts[run_id, number, int(attempt)]
        demand(given.status == "completed", f"{name} was given the output of {token}, which is {given.status}")

    def _log(self, who: str, old: Rows, new: Rows) -> None:
        said = [
            f"{run_id}={run.status}{'!' * run.cancel}"
            for run_id, run in new.runs.items()
            if run != old.runs.get(run_id)
        ]
        said += [f"{key[0]}.{key[1]}={one.status}" for key, one in new.tasks.items() if one != old.tasks.get(key)]
        said += [f"{'.'.join(map(str, k))}:{a.status}" for k, a in new.attempts.items() if a != old.attempts.get(k)]
        said += [f"{run_id}@{item}" for run_id, item in new.queue.items() if item != old.queue.get(run_id)]
        said += [f"{one}~{row}" for one, row in new.workers.items() if row != old.workers.get(one)]
        self._stage.log(f"{who}: {' '.join(said)}")


def _saw_run(*columns: Any) -> None:
    run_id, old, new, was, becomes, *cancel = columns
    demand(new == old + 1, f"run {run_id} went from version {old} to {new}")
    demand(was not in FINAL, f"run {run_id} was {was}, and was changed")
    demand(
        was == becomes or RunState(becomes) in LEGAL_RUN[RunState(was)], f"run {run_id} went from {was} to {becomes}"
    )
    demand(cancel[0] <= cancel[1], f"the cancel of run {run_id} was forgotten")


def _saw_task(*columns: Any, has_attempts: bool) -> None:
    name, old, new, was, becomes, attempts, failures, says_else = columns
    demand(new == old + 1, f"task {name} went from version {old} to {new}")
    demand(was not in FINAL, f"task {name} was {was}, and was changed")
    demand(
        was == becomes or TaskState(becomes) in LEGAL_TASK[TaskState(was)], f"task {name} went from {was} to {becomes}"
    )
    taken_back = (was, becomes, attempts) == ("running", "pending", -1)
    unclear = was == becomes and says_else and not attempts  # nobody knows how a lasting attempt does, or again
    counted = attempts == (becomes == "running" and has_attempts) or taken_back or unclear
    demand(counted, f"task {name} became {becomes} with {attempts} more attempts")
    demand(failures in (0, 1), f"task {name} has {failures} more failures")


def _saw_attempt(*columns: Any) -> None:
    name, was, becomes = columns
    demand(was == "running", f"attempt {name} was {was}, and became {becomes}")


def _saw_loss(*columns: Any) -> None:
    raise BrokenError(f"a row of run {columns[0]} was deleted")
