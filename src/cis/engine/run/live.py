"""The attempts whose processes live now: their time limits, how each is brought to its end, and how that end is judged.

Ending takes two steps: TERM to the process group, then, after a grace period, KILL. Why an attempt was ended decides
what its exit means: cancelled, failed for its time limit, or lost because the worker had to stop.

Some ends are judged a moment later (``Doubts``). A service manager that stops a node may send TERM to all of its
processes at once (``KillMode=control-group``, ``podman kill --all``, a shutdown). A task that ends by it has not
failed: it was cut short with its worker, but its end may be seen before the worker knows. So an end by such a signal,
unasked, waits for a moment. If the worker was told to stop as well by then, the attempt is lost, and tried again.

A task may also catch the signal and end with any status. So once a worker with a supervisor was told to stop, every end
waits for a second. If the worker is told again in that time, somebody other than its supervisor told all processes, and
all of these ends are lost attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from signal import SIGHUP, SIGINT, SIGTERM
from typing import NamedTuple

from cis.engine.outputs import forget_outputs, take_outputs
from cis.engine.ports import Executor, Exit
from cis.engine.shortage import shortage_of
from cis.engine.times import Instant, end_us
from cis.errors import LaunchError
from cis.model.states import AttemptState
from cis.store.records import AttemptRecord, LeftProcess

_NEVER = float("inf")
PID_AGAIN_S = 1.0

MOMENT_S = 0.25
TOLD_AGAIN_WITHIN_S = 1.0
_SHELL = 128  # what a shell adds to the signal that ended its command
_TOLD = frozenset(code for number in (SIGHUP, SIGINT, SIGTERM) for code in (-number, _SHELL + number))


class Ending(StrEnum):
    """Why a process is being ended."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"


@dataclass(slots=True, kw_only=True)
class Live:
    """A started attempt. Times are monotonic seconds; ``outputs`` is its ``CIS_OUTPUT``, ``mask`` what not to show.

    ``started_up_us`` and ``ended_up_us`` are how long the machine had been up, awake or asleep. One that is ``lasting``
    is held to its time limit by the executor, and goes on when this worker stops.
    """

    attempt: AttemptRecord
    started_s: float
    started_up_us: int
    timeout_s: float | None
    outputs: str
    mask: Sequence[bytes] = ()
    ending: Ending | None = None
    kill_at_s: float = _NEVER
    pid_stored: bool = False
    pid_asked_s: float = 0.0
    ended_up_us: int = 0
    lasting: bool = False

    @property
    def due_s(self) -> float:
        """When something has to be done about it: its time limit, or KILL."""
        if self.ending is not None:
            return self.kill_at_s
        return _NEVER if self.timeout_s is None or self.lasting else self.started_s + self.timeout_s


class End(NamedTuple):
    """The end of an attempt: the row as it will be stored, its outputs, and what it was allowed to leave running.

    ``kept`` is the handle of a lasting attempt, and its ``CIS_OUTPUT``: what is kept of it until this is stored.
    """

    attempt: AttemptRecord
    outputs: dict[str, str]
    left: Sequence[LeftProcess] = ()
    kept: tuple[str, str] | None = None


class LiveAttempts:
    """All live attempts of one worker, by the executor's handle."""

    def __init__(self, executor: Executor, *, grace_s: float) -> None:
        self._executor = executor
        self._grace_s = grace_s
        self._by_handle: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._by_handle)

    def __iter__(self) -> Iterator[Live]:
        return iter(self._by_handle.values())

    def add(self, handle: str, live: Live) -> None:
        """Take in a process that was just started."""
        self._by_handle[handle] = live

    def get(self, handle: str) -> Live:
        """Return an attempt by its handle."""
        return self._by_handle[handle]

    def pop(self, handle: str) -> Live:
        """Give up a process that has ended."""
        return self._by_handle.pop(handle)

    def note_ends(self, exits: Sequence[Exit], *, up_us: int) -> None:
        """Note when attempts ended, by the machine's uptime; of a lasting one its executor says how long it took."""
        for ended in exits:
            live = self._by_handle[ended.handle]
            live.ended_up_us = up_us if ended.took_us is None else live.started_up_us + ended.took_us

    def let_lasting_go(self) -> None:
        """Leave the lasting attempts that run to whoever takes them up next."""
        for handle in [handle for handle, live in self._by_handle.items() if live.lasting]:
            if self._executor.let_go(handle):
                del self._by_handle[handle]

    def has(self, attempt: AttemptRecord) -> bool:
        """Whether the process of this attempt is one of ours."""
        key = (attempt.run_id, attempt.task_no, attempt.attempt)
        return any((a.run_id, a.task_no, a.attempt) == key for a in (live.attempt for live in self))

    def end_where(self, chosen: Callable[[Live], bool], why: Ending, *, now_s: float) -> None:
        """Begin to end each chosen attempt that is not being ended yet."""
        for handle, live in self._by_handle.items():
            if live.ending is None and chosen(live):
                self._begin(handle, live, why, now_s=now_s)

    def end(self, handle: str, why: Ending, *, now_s: float) -> None:
        """Begin to end one attempt."""
        self._begin(handle, self._by_handle[handle], why, now_s=now_s)

    def kill_where(self, chosen: Callable[[Live], bool]) -> None:
        """Have the next ``tick`` send KILL to each chosen attempt; each is lost unless it was being ended."""
        for live in self:
            if chosen(live):
                live.ending = live.ending or Ending.STOP
                live.kill_at_s = min(live.kill_at_s, 0.0)  # at the next tick, and then once a second

    def kill_all(self) -> None:
        """Send KILL to every process at once; each counts as lost unless it was being ended already."""
        for handle, live in self._by_handle.items():
            live.ending = live.ending or Ending.STOP
            live.kill_at_s = _NEVER
            self._executor.end(handle, force=True)

    def tick(self, now_s: float) -> None:
        """Act on time limits and grace periods that are over."""
        for handle, live in self._by_handle.items():
            if live.due_s > now_s:
                continue
            if live.ending is None:
                self._begin(handle, live, Ending.TIMEOUT, now_s=now_s)
            else:
                self._executor.end(handle, force=True)
                live.kill_at_s = now_s + 1.0

    def next_due_s(self) -> float:
        """Return when ``tick`` has something to do; infinity when never."""
        return min((live.due_s for live in self), default=_NEVER)

    def take_pids(self, *, older_than_s: float) -> list[AttemptRecord]:
        """Return attempts that have lived for a moment, with pid and start time, once for each.

        Most tasks end sooner and spare the database this write; an orphan of that first moment is found by the
        variables in its environment. One whose start time cannot be read for a shortage is asked for again.
        """
        found = []
        for handle, live in self._by_handle.items():
            if not live.pid_stored and live.pid_asked_s <= older_than_s and live.started_s <= older_than_s:
                try:
                    identity = self._executor.identity(handle)
                except OSError as error:
                    if shortage_of(error) is None:
                        raise
                    live.pid_asked_s = older_than_s + PID_AGAIN_S
                    continue
                if identity is None and live.lasting:  # it has not said yet
                    live.pid_asked_s = older_than_s + PID_AGAIN_S
                    continue
                if identity is not None:
                    live.attempt = live.attempt._replace(pid=identity.pid, pid_started=identity.started)
                live.pid_stored = True
                found.append(live.attempt)
        return found

    def oldest_without_pid_s(self) -> float:
        """Return when the oldest attempt whose pid is not stored was started, or asked for; infinity when none is."""
        return min((max(live.started_s, live.pid_asked_s) for live in self if not live.pid_stored), default=_NEVER)

    def _begin(self, handle: str, live: Live, why: Ending, *, now_s: float) -> None:
        live.ending = why
        live.kill_at_s = now_s + self._grace_s
        self._executor.end(handle, force=False)


def judge(live: Live, ended: Exit, *, now_us: int) -> End:
    """Return what an exit means: completed, failed, cancelled or lost, and with which outputs, whose file goes.

    That of a lasting attempt stays until its end is stored: whoever comes next would judge again.

    Raises:
        LaunchError: there is no descriptor to read the outputs with: judge again later.
    """
    attempt = live.attempt
    status, error = _verdict(live, ended)
    outputs: dict[str, str] = {}
    if status is AttemptState.COMPLETED:
        try:
            outputs = dict(take_outputs(live.outputs, mask=live.mask, keep=live.lasting))
        except LaunchError as refused:
            if shortage_of(refused) is not None:
                raise
            status, error = AttemptState.FAILED, str(refused)
    else:
        forget_outputs(live.outputs)
    done = attempt._replace(
        status=status,
        exit_code=ended.exit_code,
        pid=ended.pid,
        finished_at_us=end_us(
            attempt.started_at_us,
            now_us=now_us if ended.ended_at_us is None else ended.ended_at_us,
            took_us=live.ended_up_us - live.started_up_us,
        ),
        error=error,
        stdout_tail=ended.stdout_tail,
        stderr_tail=ended.stderr_tail,
        stdout_bytes=ended.stdout_bytes,
        stderr_bytes=ended.stderr_bytes,
    )
    left = [LeftProcess(done.run_id, done.task_no, done.task_id, pid, started) for pid, started in ended.left]
    return End(done, outputs, left, (ended.handle, live.outputs) if live.lasting else None)


def _verdict(live: Live, ended: Exit) -> tuple[AttemptState, str | None]:
    if live.ending is Ending.TIMEOUT or (live.ending is None and ended.timed_out):
        return AttemptState.FAILED, f"timed out after {live.timeout_s:g} s"
    # What was ended did not do its work, whatever status it makes of a TERM.
    if live.ending is Ending.CANCEL:
        return AttemptState.CANCELLED, "cancelled"
    if live.ending is Ending.STOP:
        return AttemptState.LOST, "the worker was stopped"
    if ended.lost is not None:
        return AttemptState.LOST, ended.lost
    exit_code = ended.exit_code
    if ended.fault is not None or exit_code is None:
        return AttemptState.FAILED, ended.fault
    if exit_code == 0:
        return AttemptState.COMPLETED, None
    if exit_code < 0:
        return AttemptState.FAILED, f"ended by signal {-exit_code}"
    return AttemptState.FAILED, f"exit status {exit_code}"


def failed(attempt: AttemptRecord, error: str, *, at_us: int) -> End:
    """Return the end of an attempt that never became a process, and why."""
    finished_at_us = max(at_us, attempt.started_at_us)
    ended = attempt._replace(status=AttemptState.FAILED, error=error, finished_at_us=finished_at_us)
    return End(attempt=ended, outputs={})


class _Doubt(NamedTuple):
    live: Live
    ended: Exit
    at_us: int
    due_s: float


class Doubts:
    """The ends that are not judged yet; their attempts count as running."""

    def __init__(self) -> None:
        self._open: list[_Doubt] = []
        self._all_until_s = 0.0

    def doubt_all(self, *, until_s: float) -> None:
        """Hold every end until then."""
        self._all_until_s = until_s

    def hold(self, live: Live, ended: Exit, now: Instant) -> bool:
        """Take an end that nobody asked for, if it is one to doubt; return whether it was taken."""
        if live.ending is not None or live.lasting or not (ended.exit_code in _TOLD or now.mono_s < self._all_until_s):
            return False
        live.pid_stored = True  # its number may be somebody else's from now on
        due_s = max(self._all_until_s, now.mono_s + MOMENT_S if ended.exit_code in _TOLD else 0.0)
        self._open.append(_Doubt(live, ended, now.wall_us, due_s))
        return True

    def settled(self, now_s: float, *, stopping: bool) -> Iterator[tuple[Exit, int]]:
        """Give up the ends that can be judged, each with its moment; one by a signal is lost while the worker stops."""
        if not self._open:
            return
        still = []
        for doubt in self._open:
            told = stopping and doubt.ended.exit_code in _TOLD
            if doubt.live.ending is None and not told and now_s < doubt.due_s:
                still.append(doubt)
                continue
            if told:
                doubt.live.ending = doubt.live.ending or Ending.STOP
            yield doubt.ended, doubt.at_us
        self._open = still

    def next_due_s(self) -> float:
        """Return when there is something to judge; infinity when never."""
        return min((doubt.due_s for doubt in self._open), default=_NEVER)
