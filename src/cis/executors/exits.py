"""How the end of a child process is noticed: by pidfd on Linux, by SIGCHLD and asking elsewhere.

Only children that were added here are ever reaped here, one by one: the process may have other children, whose ends
belong to others (``cis.executors.linux.descendants`` reaps those that nobody waits for). Whoever waits for ends waits
for pipes as well: each that is *listened* to is told of once, until it is listened to again.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import time
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import Any, NamedTuple, Protocol

REAPED_BY_OTHERS = 255
_ASK_AGAIN_S = 0.25

_WAIT_STEP_S = 0.005
_ONCE = "once"


class Process(Protocol):
    """A child of this process; ``subprocess.Popen`` is one. ``returncode`` is None until it was reaped."""

    pid: int
    returncode: int | Any

    def wait(self, timeout: float | None = None) -> int: ...


class Child:
    """A child that ``posix_spawn`` started."""

    __slots__ = ("pid", "returncode")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | Any = None

    def wait(self, timeout: float | None = None) -> int:
        """Reap it and return its status. Raises subprocess.TimeoutExpired, as Popen does."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None and not reap(self):
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_WAIT_STEP_S)
        return int(self.returncode)


class Noticed(NamedTuple):
    """What a wait brought: processes that have ended, whether a watched descriptor is readable, pipes that are."""

    ended: list[Process]
    rung: bool
    readable: list[int]


class WakeUp(Protocol):
    """What ends a wait early."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable then."""
        ...

    def woken(self) -> None:
        """Take in what came, so that the descriptor is readable no more."""
        ...


class ExitWatch(Protocol):
    """Waits for added processes to end, and for descriptors to become readable."""

    def add(self, process: Process) -> None:
        """Take in a child; never fails, since that one runs by now."""
        ...

    def watch(self, descriptor: int) -> None:
        """Return from ``wait`` whenever *descriptor* is readable."""
        ...

    def has(self, pid: int) -> bool:
        """Whether the end of this process is still to be noticed here."""
        ...

    def release(self, process: Process) -> None:
        """Give the number of an ended process back to the system; nothing is known by it any more."""
        ...

    def listen(self, descriptor: int) -> None:
        """Return from ``wait`` once when *descriptor* is readable or at its end. Raises OSError: no more can be had."""
        ...

    def unlisten(self, descriptor: int) -> None:
        """Forget a descriptor that was listened to, before it is closed."""
        ...

    def wait(self, timeout_s: float) -> Noticed: ...

    def close(self) -> None: ...


class PidfdExits:
    """Linux: one pidfd for each process, all in one epoll object.

    With *hold*, an ended process keeps its number until it is released: so long nothing else is started under it.
    """

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold
        self._epoll = select.epoll()
        self._processes: dict[int, Process] = {}
        self._pids: set[int] = set()
        self._ended: list[int] = []  # to be closed while nobody waits for it
        self._pipes: set[int] = set()
        self._unwatched: list[Process] = []  # no descriptor could be had for them yet, so they are asked

    def add(self, process: Process) -> None:
        """Take in a child; without a descriptor for it, it is asked again and again whether it has ended."""
        self._pids.add(process.pid)
        if not self._watch_end(process):
            self._unwatched.append(process)

    def has(self, pid: int) -> bool:
        """Whether the end of this process is still to be noticed here."""
        return pid in self._pids

    def watch(self, descriptor: int) -> None:
        """Return from ``wait`` when *descriptor* is readable."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def listen(self, descriptor: int) -> None:
        """Return from ``wait`` once when *descriptor* is readable or at its end. Raises OSError: no more can be had."""
        if descriptor in self._pipes:
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
            return
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        self._pipes.add(descriptor)

    def unlisten(self, descriptor: int) -> None:
        """Forget a descriptor that was listened to, before it is closed.

        Closed alone, it could be told of once more, under a number that is another's by then: what was just started has
        all that is open here until its ``exec`` is done.
        """
        if descriptor in self._pipes:
            self._pipes.discard(descriptor)
            self._epoll.unregister(descriptor)

    def wait(self, timeout_s: float) -> Noticed:
        """Return what has happened, at once when something has."""
        self._forget_ended()
        ended = []
        rung = False
        readable = []
        if self._unwatched:
            ended = self._ask_unwatched()
            timeout_s = 0.0 if ended else min(timeout_s, _ASK_AGAIN_S) if self._unwatched else timeout_s
        for descriptor, _ in self._epoll.poll(timeout_s):
            process = self._processes.get(descriptor)
            if process is None:
                if descriptor in self._pipes:
                    readable.append(descriptor)
                else:
                    rung = True
            elif self._has_ended(process):
                del self._processes[descriptor]
                self._ended.append(descriptor)
                ended.append(process)
        if len(ended) > 1:  # many would keep as many from being started
            self._forget_ended()
        return Noticed(ended, rung, readable)

    def release(self, process: Process) -> None:
        """Give the number of an ended process back to the system; nothing is known by it any more."""
        if process.pid in self._pids:
            self._pids.discard(process.pid)
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)

    def close(self) -> None:
        """Forget every process and give all descriptors back."""
        for descriptor in (*self._processes, *self._ended):
            os.close(descriptor)
        self._processes.clear()
        self._ended.clear()
        self._pipes.clear()
        self._unwatched.clear()
        self._epoll.close()

    def _watch_end(self, process: Process) -> bool:
        """Have ``wait`` return when a child has ended; False: there is no descriptor for it, or no memory."""
        descriptor = None
        try:
            descriptor = os.pidfd_open(process.pid)
            self._epoll.register(descriptor, select.EPOLLIN)
        except OSError:
            if descriptor is not None:
                os.close(descriptor)
            return False
        self._processes[descriptor] = process
        return True

    def _ask_unwatched(self) -> list[Process]:
        asked, self._unwatched = self._unwatched, []
        ended = []
        for process in asked:
            if self._has_ended(process):
                ended.append(process)
            elif not self._watch_end(process):
                self._unwatched.append(process)
        return ended

    def _has_ended(self, process: Process) -> bool:
        if self._hold:
            return see_end(process)
        if not reap(process):
            return False
        self._pids.discard(process.pid)
        return True

    def _forget_ended(self) -> None:
        for descriptor in self._ended:
            self._epoll.unregister(descriptor)
            os.close(descriptor)
        self._ended.clear()


class SignalExits:
    """Anywhere: SIGCHLD writes a byte into a socket that is waited for, and each process is asked.

    There is one such byte-writer for a process and only the main thread may set it; where this one is not in
    place, the processes are asked again every quarter of a second.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, Process] = {}
        self._awake, self._signalled = socket.socketpair()
        for end in (self._awake, self._signalled):
            end.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._old_wakeup = -1
        self._old_handler: signal._HANDLER = None
        self._installed = False
        with suppress(ValueError):  # not in the main thread
            self._old_handler = signal.signal(signal.SIGCHLD, _noted)
            self._old_wakeup = signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
            self._installed = True

    def add(self, process: Process) -> None:
        """Take in a child."""
        self._processes[process.pid] = process

    def has(self, pid: int) -> bool:
        """Whether the end of this process is still to be noticed here."""
        return pid in self._processes

    def release(self, process: Process) -> None:
        """Its number was given back when its end was noticed."""

    def watch(self, descriptor: int) -> None:
        """Return from ``wait`` when *descriptor* is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def listen(self, descriptor: int) -> None:
        """Return from ``wait`` once when *descriptor* is readable or at its end. Raises OSError: no more can be had."""
        with suppress(KeyError):  # it is listened to
            self._selector.register(descriptor, selectors.EVENT_READ, _ONCE)

    def unlisten(self, descriptor: int) -> None:
        """Forget a descriptor that was listened to, before it is closed."""
        with suppress(KeyError):  # it was told of
            self._selector.unregister(descriptor)

    def wait(self, timeout_s: float) -> Noticed:
        """Return what has happened, at once when something has."""
        ended = self._ask()
        wait_s = min(timeout_s, _ASK_AGAIN_S) if self._processes else timeout_s
        rung = False
        readable = []
        for key, _ in self._selector.select(0.0 if ended else max(0.0, wait_s)):
            if key.fileobj is self._awake:
                with suppress(BlockingIOError):
                    self._awake.recv(4096)
            elif key.data is _ONCE:
                self._selector.unregister(key.fd)
                readable.append(key.fd)
            else:
                rung = True
        return Noticed(ended or self._ask(), rung, readable)

    def close(self) -> None:
        """Forget every process and put the handling of signals back."""
        if self._installed:
            with suppress(ValueError):
                signal.set_wakeup_fd(self._old_wakeup)
                signal.signal(signal.SIGCHLD, self._old_handler or signal.SIG_DFL)
        self._selector.close()
        self._awake.close()
        self._signalled.close()
        self._processes.clear()

    def _ask(self) -> list[Process]:
        ended = [process for process in self._processes.values() if reap(process)]
        for process in ended:
            del self._processes[process.pid]
        return ended


def reap(process: Process) -> bool:
    """Take the exit status of a child that has ended; False while it runs.

    ``Popen.poll`` would call it a success when somebody else took the status.
    """
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        process.returncode = REAPED_BY_OTHERS
        return True
    if pid == 0:
        return False
    process.returncode = os.waitstatus_to_exitcode(status)
    return True


def see_end(process: Process) -> bool:
    """Note the exit status of a child that has ended, and leave it where it is; False while it runs."""
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        process.returncode = REAPED_BY_OTHERS
        return True
    if ended is None:
        return False
    process.returncode = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return True


def expect_children() -> None:
    """Undo an inherited ``SIG_IGN`` of SIGCHLD, under which no exit status could ever be read."""
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _noted(_signal: int, _frame: object) -> None:
    """Let SIGCHLD be caught: the byte in the socket is all that is wanted."""
