"""What tasks write: read from two pipes for each task, and put into their log files.

A pipe, because a task that opens its own stream by name (``> /dev/stdout``) would empty a file, and because nothing
gets past whoever reads it: a log never holds more than its cap. A task that writes faster than this is read waits.

Most tasks say nothing and are over soon, so a pipe is first looked into after a moment, and then listened to. One that
has just been read rests for a moment, so that a task which writes line by line wakes nobody for each; one that gave all
that was asked for is read on at once. Each round reads a bounded amount, in equal shares.

``Foreseen`` makes the pipes and the stamp of the next task while there is time for it.
"""

from __future__ import annotations

import fcntl
import heapq
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from cis.engine.ports import Launch, StrPath
from cis.executors.exits import ExitWatch
from cis.executors.linux.stamps import stamp_of
from cis.executors.logcap import NOTHING, SHORTAGES, CappedLog, write_times
from cis.store.records import TAIL_BYTES

log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 16  # what a pipe holds at first
GROWN_BYTES = (
    1 << 18
)  # what that of a task holds which once filled it; a user may have 64 MiB in all of them by default
MOST_GROWN = 16
ROUND_BYTES = 1 << 20
LEAST_BYTES = 1 << 12
MOST_LEFT_BYTES = 1 << 20  # taken at the end; more is there only if somebody writes on
LOOK_AFTER_S = 0.01
LISTEN_AFTER_S = 0.04
REST_S = 0.002
SHORTAGE_S = 0.1
NEVER = float("inf")


class Written(NamedTuple):
    """What a task wrote: the ends of its two texts, and their sizes in bytes."""

    stdout_tail: str
    stdout_bytes: int
    stderr_tail: str
    stderr_bytes: int


class LogPipe:
    """One stream of a task: the ``writer`` is its own, what comes out at the other end is appended to its log.

    Raises:
        OSError: no pipe can be had.
    """

    __slots__ = ("_held", "_spent", "_told", "descriptor", "grown", "log", "writer")

    def __init__(self, path: StrPath, *, cap: int) -> None:
        self.descriptor, self.writer = os.pipe()
        os.set_blocking(self.descriptor, False)
        self.log = CappedLog(path, cap=cap, tail_bytes=TAIL_BYTES)
        self._held = b""  # what was read before its file could be opened
        self._spent = NOTHING  # the descriptor of a pipe of which nothing more is wanted
        self._told = False
        self.grown = False

    def read(self, buffer: memoryview) -> int | None:
        """Move into the log what *buffer* can hold; return how much it was, 0 at the end of the stream, None if nothing is there.

        Raises:
            OSError: the log cannot be opened now, for want of descriptors or memory; nothing is lost by it.
        """
        if self._held:
            self._make_sure()
            held, self._held = self._held, b""
            self._append(held)
        try:
            size = os.readv(self.descriptor, [buffer])
        except BlockingIOError:
            return None
        if size:
            try:
                self._make_sure()
            except OSError:
                self._held = bytes(buffer[:size])
                raise
            self._append(buffer[:size])
        return size

    def grow(self) -> bool:
        """Let the pipe hold more; return whether it does."""
        if not hasattr(fcntl, "F_SETPIPE_SZ"):
            return False
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, GROWN_BYTES)
        except OSError:  # this user has too many
            return False
        self.grown = True
        return True

    def finish(self) -> tuple[str, int]:
        """Take what is left; return the tail of the text and the bytes that came. ``close`` comes next, in time."""
        left = self._left()
        if not left and not self.log.written:
            self._spent, self.descriptor = self.descriptor, NOTHING
            return "", 0
        self.close_pipe()  # first, so that a descriptor for the log can be had
        self._append(left)
        return self.log.finish()

    def hand_over(self) -> None:
        """Close the end that the task now has."""
        if self.writer != NOTHING:
            os.close(self.writer)
            self.writer = NOTHING

    def close_pipe(self) -> None:
        """Read nothing more."""
        for descriptor in (self.descriptor, self._spent):
            if descriptor != NOTHING:
                os.close(descriptor)
        self.descriptor = self._spent = NOTHING

    def close(self) -> None:
        """Give all descriptors back."""
        self.hand_over()
        self.close_pipe()
        self.log.close()

    def _left(self) -> bytes:
        left = [self._held]
        size = 0
        while self.descriptor != NOTHING and size < MOST_LEFT_BYTES:
            try:
                data = os.read(self.descriptor, PIPE_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            left.append(data)
            size += len(data)
            if len(data) < PIPE_BYTES:
                break
        return b"".join(left) if size else self._held

    def _make_sure(self) -> None:
        try:
            self.log.make_sure()
        except OSError as error:
            if error.errno in SHORTAGES:
                raise

    def _append(self, data: bytes | memoryview) -> None:
        self.log.append(data)
        self._warn()

    def _warn(self) -> None:
        if self.log.lost and not self._told:
            self._told = True
            log.warning(
                "a log file cannot be written; what its task says now is missing in it",
                extra={"path": os.fspath(self.log.path), "error": str(self.log.trouble)},
            )


class PlainStreams:
    """The two pipes of a task that are read by its executor."""

    __slots__ = ("stderr", "stdout")

    def __init__(self, stdout: StrPath, stderr: StrPath, *, cap: int) -> None:
        self.stdout = LogPipe(stdout, cap=cap)
        try:
            self.stderr = LogPipe(stderr, cap=cap)
        except OSError:
            self.stdout.close()
            raise

    @property
    def writers(self) -> tuple[int, int]:
        """The descriptors that the task is to have."""
        return self.stdout.writer, self.stderr.writer

    def hand_over(self) -> None:
        """Close what the task now has."""
        self.stdout.hand_over()
        self.stderr.hand_over()

    def finish(self) -> Written:
        """Take what is left; ``close`` comes next, when there is time."""
        written = Written(*self.stdout.finish(), *self.stderr.finish())
        write_times(self.stdout.log, self.stderr.log)
        return written

    def close(self) -> None:
        """Give all descriptors back."""
        self.stdout.close()
        self.stderr.close()


class Listener:
    """Reads the pipes of all tasks, when something is in them; for whoever waits with *exits*."""

    def __init__(self, exits: ExitWatch) -> None:
        self._exits = exits
        self._listened: dict[int, LogPipe] = {}
        self._later: list[tuple[float, int, LogPipe, bool]] = []  # when · order · which · to be looked into first
        self._order = count()
        self._buffer = memoryview(bytearray(GROWN_BYTES))
        self._grown = 0

    @property
    def due_s(self) -> float:
        """When ``look`` has something to do."""
        while self._later and self._later[0][2].descriptor == NOTHING:  # it is over: nobody is to wake up for it
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else NEVER

    def add(self, streams: PlainStreams, now_s: float) -> None:
        """Take in the pipes of a task that was just started."""
        self._put_off(streams.stdout, now_s + LOOK_AFTER_S, first=True)
        self._put_off(streams.stderr, now_s + LOOK_AFTER_S, first=True)

    def look(self, now_s: float) -> None:
        """See to the pipes whose time has come."""
        while self._later and self._later[0][0] <= now_s:
            _, _, pipe, first = heapq.heappop(self._later)
            if pipe.descriptor == NOTHING:
                continue
            if first and self._read(pipe, PIPE_BYTES // 4, now_s):
                continue
            self._listen(pipe, now_s)

    def take(self, ready: Sequence[int], now_s: float) -> None:
        """Read what is in the pipes that *ready* names, or those of them that are still open."""
        if not ready:
            return
        share = max(LEAST_BYTES, min(GROWN_BYTES, ROUND_BYTES // len(ready)))
        for descriptor in ready:
            pipe = self._listened.get(descriptor)
            if pipe is not None and pipe.descriptor == descriptor and not self._read(pipe, share, now_s):
                self._listen(pipe, now_s)

    def forget(self, streams: PlainStreams) -> None:
        """Listen no more to the pipes of a task, which are about to be closed."""
        for pipe in (streams.stdout, streams.stderr):
            if self._listened.pop(pipe.descriptor, None) is not None:
                self._exits.unlisten(pipe.descriptor)
            self._grown -= pipe.grown
            pipe.grown = False

    def _read(self, pipe: LogPipe, at_most: int, now_s: float) -> bool:
        """Read a piece; return whether it is settled when to look again."""
        try:
            size = pipe.read(self._buffer[:at_most])
        except OSError:
            self._put_off(pipe, now_s + SHORTAGE_S, first=True)
            return True
        if size is None:
            if pipe.descriptor in self._listened:
                return False
            self._put_off(pipe, now_s + LISTEN_AFTER_S, first=False)
        elif size == 0:
            if self._listened.pop(pipe.descriptor, None) is not None:
                self._exits.unlisten(pipe.descriptor)
            pipe.close_pipe()
        elif size < min(at_most, PIPE_BYTES):
            self._put_off(pipe, now_s + REST_S, first=False)
        else:
            if size >= PIPE_BYTES and not pipe.grown and self._grown < MOST_GROWN:
                self._grown += pipe.grow()
            return False
        return True

    def _put_off(self, pipe: LogPipe, until_s: float, *, first: bool) -> None:
        heapq.heappush(self._later, (until_s, next(self._order), pipe, first))

    def _listen(self, pipe: LogPipe, now_s: float) -> None:
        try:
            self._exits.listen(pipe.descriptor)
            self._listened[pipe.descriptor] = pipe
        except OSError:  # more than the system watches for one user
            self._put_off(pipe, now_s + LISTEN_AFTER_S, first=True)


class Foreseen:
    """Keeps that of one launch at most. *cap* bounds each log, *home* is part of each stamp."""

    def __init__(self, *, cap: int, home: StrPath | None) -> None:
        self._cap = cap
        self._home = home
        self._launch: Launch | None = None
        self._streams: PlainStreams | None = None
        self._stamp: int | None = None

    def make(self, launch: Launch) -> None:
        """Make it for *launch*, if that needs nothing else, and there are descriptors."""
        self.forget()
        if launch.mask or launch.keep_log or launch.stdin or launch.lasting:
            return
        with suppress(OSError):
            self._streams = PlainStreams(launch.stdout, launch.stderr, cap=self._cap)
            self._stamp = stamp_of(launch.marks, home=self._home)
            self._launch = launch

    def take(self, launch: Launch) -> tuple[PlainStreams | None, int | None]:
        """Give up the pipes, if some were made for *launch*, and the stamp, which is there in any case."""
        if self._launch is not launch:
            self.forget()
            return None, stamp_of(launch.marks, home=self._home)
        streams, self._launch, self._streams = self._streams, None, None
        return streams, self._stamp

    def forget(self) -> None:
        """Close what was made in vain."""
        if self._streams is not None:
            self._streams.close()
        self._launch = self._streams = None
