"""How the exits of tasks become ends of attempts: cancelled, timed out, lost with the worker, or the task's own.

Some ends are judged a moment later (``Doubts``). A service manager that stops a node may send TERM to all of its
processes at once (``KillMode=control-group``, ``podman kill --all``, a shutdown). A task that ends by it has not
failed: it was cut short with its worker, but its end may be seen before the worker knows. So an end by such a signal,
unasked, waits for a moment. If the worker was told to stop as well by then, the attempt is lost, and tried again.

A task may also catch the signal and end with any status. So once a worker with a supervisor was told to stop, every end
waits for a second. If the worker is told again in that time, somebody other than its supervisor told all processes, and
all of these ends are lost attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from typing import TYPE_CHECKING, NamedTuple

from cis.engine.outputs import forget_outputs, standard_output, take_outputs
from cis.engine.ports import Exit
from cis.engine.run.live import Ending, Live
from cis.engine.shortage import shortage_of
from cis.engine.times import Instant, end_us
from cis.errors import LaunchError
from cis.model.dag import Json
from cis.model.states import AttemptState
from cis.store.records import AttemptRecord, LeftProcess

if TYPE_CHECKING:
    from cis.engine.run.parts import Holdings, WorkerPorts

_NEVER = float("inf")
READ_AGAIN_S = 0.1

MOMENT_S = 0.25
TOLD_AGAIN_WITHIN_S = 1.0
_SHELL = 128  # what a shell adds to the signal that ended its command
_TOLD = frozenset(code for number in (SIGHUP, SIGINT, SIGTERM) for code in (-number, _SHELL + number))


class End(NamedTuple):
    """The end of an attempt: the row as it will be stored, its outputs, and what it was allowed to leave running.

    ``kept`` is the handle of a lasting attempt, and its ``CIS_OUTPUT``: what is kept of it until this is stored.
    ``code`` is the exit status with which it ended by itself; None: it was ended, by a time limit or a signal.
    ``hopeless``: the next attempt would fail likewise.
    """

    attempt: AttemptRecord
    outputs: dict[str, Json]
    left: Sequence[LeftProcess] = ()
    kept: tuple[str, str] | None = None
    code: int | None = None
    hopeless: bool = False


def judge(live: Live, ended: Exit, *, now_us: int) -> End:
    """Return what an exit means: completed, failed, cancelled or lost, and with which outputs, whose file goes.

    That of a lasting attempt stays until its end is stored: whoever comes next would judge again.

    Raises:
        LaunchError: there is no descriptor to read the outputs with: judge again later.
    """
    attempt = live.attempt
    status, error, code = _verdict(live, ended)
    outputs: dict[str, Json] = {}
    if status is AttemptState.COMPLETED:
        try:
            if live.captured is not None:
                name, path = live.captured
                outputs[name] = standard_output(path, tail=ended.stdout_tail, size=ended.stdout_bytes)
            outputs.update(take_outputs(live.outputs, mask=live.mask, keep=live.lasting))
        except LaunchError as refused:
            if shortage_of(refused) is not None:
                raise
            status, error, code, outputs = AttemptState.FAILED, str(refused), None, {}
    else:
        forget_outputs(live.outputs)
    if live.script is not None:
        forget_outputs(live.script)
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
    kept = (ended.handle, live.outputs) if live.lasting else None
    return End(done, outputs, left, kept, code, hopeless=ended.too_long and status is AttemptState.FAILED)


def _verdict(live: Live, ended: Exit) -> tuple[AttemptState, str | None, int | None]:
    """Return what an exit means, why it is no success, and the exit status if it ended by itself."""
    if live.ending is Ending.TIMEOUT or (live.ending is None and ended.timed_out):
        return AttemptState.FAILED, f"timed out after {live.timeout_s:g} s", None
    # What was ended did not do its work, whatever status it makes of a TERM.
    if live.ending is Ending.CANCEL:
        return AttemptState.CANCELLED, "cancelled", None
    if live.ending is Ending.STOP:
        return AttemptState.LOST, "the worker was stopped", None
    if ended.lost is not None:
        return AttemptState.LOST, ended.lost, None
    exit_code = ended.exit_code
    if ended.fault is not None or exit_code is None:
        return AttemptState.FAILED, ended.fault, None
    if exit_code in live.good_codes if live.good_codes else exit_code == 0:
        return AttemptState.COMPLETED, None, exit_code
    if exit_code < 0:
        return AttemptState.FAILED, f"ended by signal {-exit_code}{_named(-exit_code)}", None
    return AttemptState.FAILED, f"exit status {exit_code}{_named(exit_code - _SHELL)}", exit_code


def _named(number: int) -> str:
    """Return the name of a signal in brackets, for what ended by it or says so as a shell does; nothing for no signal."""
    try:
        return f" ({Signals(number).name})"
    except ValueError:
        return ""


def failed(attempt: AttemptRecord, error: str, *, at_us: int, hopeless: bool = False) -> End:
    """Return the end of an attempt that never became a process, and why; *hopeless*: the next would not either."""
    finished_at_us = max(at_us, attempt.started_at_us)
    ended = attempt._replace(status=AttemptState.FAILED, error=error, finished_at_us=finished_at_us)
    return End(attempt=ended, outputs={}, hopeless=hopeless)


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


class Ends:
    """The ends of a worker's attempts on their way into the store.

    ``new`` are those that the next transaction stores. Others are in doubt, or cannot be judged yet for want of a
    descriptor to read their outputs with (``Holdings.unjudged``).
    """

    def __init__(self, parts: WorkerPorts, held: Holdings) -> None:
        self.new: list[End] = []
        self.since_s = 0.0  # when the first of them came
        self._parts = parts
        self._held = held
        self._doubts = Doubts()

    def take(self, exits: Sequence[Exit], now: Instant) -> None:
        """Take in what has ended, and judge what can be judged by now."""
        if not self.new:
            self.since_s = now.mono_s
        if exits:
            self._held.live.note_ends(exits, up_us=self._parts.this_node.uptime_us())
        unjudged, self._held.unjudged = self._held.unjudged, []
        for ended, at_us in unjudged:
            self._judge(ended, at_us=at_us)
        for ended in exits:
            if not self._doubts.hold(self._held.live.get(ended.handle), ended, now):
                self._judge(ended, at_us=now.wall_us)
        self._settle(now.mono_s)

    def doubt_all(self) -> None:
        """Hold every end for a moment, in which the worker may be told that all processes were."""
        self._doubts.doubt_all(until_s=self._parts.clock().mono_s + TOLD_AGAIN_WITHIN_S)

    def settle(self) -> None:
        """Judge now what is in doubt."""
        self._settle(_NEVER)

    def next_due_s(self, now_s: float) -> float:
        """Return when there is something to judge; infinity when never."""
        due_s = self._doubts.next_due_s()
        return min(due_s, now_s + READ_AGAIN_S) if self._held.unjudged else due_s

    def _settle(self, now_s: float) -> None:
        for ended, at_us in self._doubts.settled(now_s, stopping=self._held.stopping):
            self._judge(ended, at_us=at_us)

    def _judge(self, ended: Exit, *, at_us: int) -> None:
        """Say what an exit means, later if its outputs cannot be read for want of a descriptor."""
        try:
            end = judge(self._held.live.get(ended.handle), ended, now_us=at_us)
        except LaunchError as error:
            self._held.unjudged.append((ended, at_us))
            self._held.fall_short(shortage_of(error) or str(error), now_s=self._parts.clock().mono_s)
            return
        self._held.live.pop(ended.handle)
        self.new.append(end)
