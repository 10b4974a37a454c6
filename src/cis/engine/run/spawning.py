"""Starting the processes of attempts whose starts are on disk, and preparing the launch of the next one.

While a single task runs there is nothing else to do, and what comes after it is often known. So the launch of a task
that waits for that one alone is made then (``LaunchCache``), and not between its end and the next start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from cis.engine.leases import under_lease
from cis.engine.outputs import forget_outputs
from cis.engine.ports import Launch
from cis.engine.run.ahead import began
from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.effects import NEVER, Start
from cis.engine.run.ends import End, failed
from cis.engine.run.live import Live
from cis.engine.run.parts import Holdings, WorkerPorts
from cis.engine.run.plan import RunPlan
from cis.engine.shortage import shortage_of
from cis.errors import LaunchError, TooLongError
from cis.store.records import AttemptRecord

_Key = tuple[str, int, int]

ATTEND_EVERY = 10  # starts, in a turn of many


class LaunchCache:
    """Makes each launch when it is asked for, unless it is the one that was foreseen."""

    def __init__(self, maker: AttemptMaker) -> None:
        self._maker = maker
        self._foreseen: tuple[_Key, Launch] | None = None

    def make(self, plan: RunPlan, attempt: AttemptRecord) -> Launch:
        """Return how to start *attempt*. Raises LaunchError."""
        if self._foreseen is not None:
            key, launch = self._foreseen
            if key == (attempt.run_id, attempt.task_no, attempt.attempt):
                return launch
        return self._maker.launch(plan, attempt.task_no, attempt)

    def foresee(self, plan: RunPlan, running: AttemptRecord) -> Launch | None:
        """Make the launch of the task that the end of *running* would make ready, if there is one, and return it.

        Only of a plain command without secrets, which is the same whenever it is made; and not of one that refers to
        outputs that are still to come.
        """
        self._foreseen = None
        number = plan.follower(running.task_no)
        if number is None:
            return None
        task = plan.task_spec(number)
        if task.skill is not None or task.secrets:
            return None
        attempt = plan.tasks[number].attempts + 1
        later = running._replace(task_no=number, task_id=task.id, attempt=attempt)
        try:
            launch = self._maker.launch(plan, number, later)
        except LaunchError:
            return None
        self._foreseen = (later.run_id, number, attempt), launch
        return launch


class Spawning:
    """Starts what a turn has chosen; what has no room, or is no process, goes to ``Holdings.unstarted``."""

    def __init__(self, parts: WorkerPorts, held: Holdings) -> None:
        self._parts = parts
        self._held = held
        self._launches = LaunchCache(parts.maker)

    def spawn(self, starts: Sequence[Start], *, attend: Callable[[], object]) -> list[End]:
        """Start the processes, calling *attend* between many; return the ends of attempts that cannot become one."""
        try:
            self._parts.maker.logfiles.prepare_live()
        except OSError as error:
            if self._is_shortage(error, starts):
                return []
            why = f"the folder for the files of tasks cannot be made: {error}"
            return [failed(start.attempt, why, at_us=self._parts.clock().wall_us) for start in starts]
        ends: list[End] = []
        for number, start in enumerate(starts):
            if number and number % ATTEND_EVERY == 0:
                attend()  # to what has ended, while others run; later they wait for its commit
            try:
                self._start(start)
            except LaunchError as error:
                if self._is_shortage(error, starts[number:]):
                    return ends
                if self._is_wait(start):
                    self._held.unstarted.append(start.attempt)
                    continue
                now_us, hopeless = self._parts.clock().wall_us, isinstance(error, TooLongError)
                ends.append(failed(start.attempt, str(error), at_us=now_us, hopeless=hopeless))
        if len(starts) == len(self._held.live) == 1:
            launch = self._launches.foresee(starts[0].plan, starts[0].attempt)
            if launch is not None:
                self._parts.executor.foresee(launch)
        return ends

    def _start(self, start: Start) -> None:
        attempt = start.attempt
        if start.begins_by_s < NEVER:
            attempt = began(start.plan, attempt, at_us=self._parts.clock().wall_us)
        launch = self._launches.make(start.plan, attempt)
        self._parts.maker.make_ready(launch)
        # Under a lease the run may go to another node while nobody here lives to end it.
        if launch.lasting and under_lease(self._parts.store, start.plan.run):
            launch = launch._replace(lasting=False)
        try:
            handle = self._parts.executor.start(launch)
        except LaunchError:
            if launch.script is not None:
                forget_outputs(launch.argv[-1])
            raise
        task = start.plan.task_spec(attempt.task_no)
        live = Live(
            attempt=attempt,
            started_s=self._parts.clock().mono_s,
            started_up_us=self._parts.this_node.uptime_us(),
            timeout_s=task.timeout_s,
            good_codes=task.good_codes,
            outputs=launch.outputs,
            mask=launch.mask,
            lasting=launch.lasting,
            script=None if launch.script is None else launch.argv[-1],
            captured=None if task.output is None else (task.output, os.fspath(launch.stdout)),
        )
        self._held.live.add(handle, live)
        if self._held.short is not None:
            self._held.short.started(running=len(self._held.live), now_s=live.started_s)

    def _is_wait(self, start: Start) -> bool:
        """Whether the task takes no slot after all: its skill, of a package, was not loaded when that was asked."""
        skill = start.plan.task_spec(start.attempt.task_no).skill
        return skill is not None and self._parts.maker.skills.waits(skill)

    def _is_shortage(self, error: Exception, left: Sequence[Start]) -> bool:
        """Whether the machine is short of something; then those that are *left* are to be put back."""
        short_of = shortage_of(error)
        if short_of is None:
            return False
        self._held.fall_short(short_of, now_s=self._parts.clock().mono_s)
        self._held.unstarted += [start.attempt for start in left]
        return True
