"""The guardian of one lasting attempt: starts its task, keeps its logs, holds it to its time limit, and writes how it ended.

    standard input    the order, by ``marshal``: what to start, and how (``cis.executors.guarded``); never in arguments or environment
    descriptors       ``alive`` and ``orders`` of the attempt's folder (``cis.executors.attempt_folder``), named in the order

It lives in a session of its own and needs nobody: its worker may die, be stopped, or come back as another program. It
is the heir of all that descends from the task, as a worker is of its tasks, and does with it what a worker would
(``cis.executors.local``). A signal that somebody else sends it, as a service manager does to all processes, is passed
on to the task, and the attempt counts as lost then. When its folder is gone from its place (the home was removed,
moved, or replaced), nobody would ever take the attempt up, and it ends it.

Run by its path, without ``site`` and the packages that are installed. All that it needs is imported at once: the files
may be those of another version later.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import stat
import sys
import time
from contextlib import suppress
from typing import Any

# At the end: nothing that lies beside this package may stand in for the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from cis.engine.outputs import MAX_OUTPUT_BYTES
from cis.engine.ports import Exit, Launch
from cis.engine.shortage import shortage_of
from cis.errors import LaunchError, TooLongError
from cis.executors.attempt_folder import DROP, END, ENDED, KILL, TASK, TOLD, make_begun, told_end
from cis.executors.local import LocalExecutor
from cis.executors.platform import process_started
from cis.model.masking import masked

LOOK_EVERY_S = 2.0
TRY_AGAIN_S = 0.5
MOMENT_S = 0.25  # between the end of a task by a signal and that signal's arrival here, when all processes get it
CUT_SHORT = "it was told to end from outside"
_FOREIGN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BY_SIGNAL = frozenset(code for number in _FOREIGN for code in (-number, 128 + number))
_NEVER = float("inf")
_AWAKE_OR_ASLEEP = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Guardian:
    """Leads one attempt from its start to the file that says how it ended."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._path: str = order["folder"]
        self._orders: int = order["orders"]
        self._portable: bool = order["portable"]
        self._grace_s: float = order["grace_s"]
        self._launch = Launch(**order["launch"])
        self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        for descriptor in (self._orders, order["alive"]):
            os.set_inheritable(descriptor, False)
        self._executor = LocalExecutor(
            max_log_bytes=order["cap"],
            nice=order["nice"],
            portable=self._portable,
            alone=True,
            grace_s=self._grace_s,
            home=order["home"],
            wake_up=self,
        )
        self._began_s = time.monotonic()
        self._began_us = _uptime_us()
        self._limit_s = _NEVER if self._launch.timeout_s is None else self._began_s + self._launch.timeout_s
        self._kill_s = _NEVER
        self._look_s = self._began_s + LOOK_EVERY_S
        self._asked = self._told = self._timed_out = self._hurry = False
        for number in _FOREIGN:
            signal.signal(number, self._tell)

    def run(self) -> int:
        """Lead the attempt to its end; return the exit status: 0 if the task's was."""
        me = {"pid": os.getpid(), "started": process_started(os.getpid(), portable=self._portable)}
        if not make_begun(self._path, said=json.dumps(me).encode()):
            return 1  # it was given up before it began
        try:
            ended = self._lead()
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever takes the attempt up has to be told
            self._executor.close()
            ended = Exit(handle="", exit_code=None, fault=f"the process that leads the task failed: {error!r:.500}")
        if self._told:
            ended = ended._replace(lost=CUT_SHORT)
        if self._launch.mask:
            _mask_file(self._launch.outputs, self._launch.mask)
        took_us = _uptime_us() - self._began_us
        ended = ended._replace(timed_out=self._timed_out, ended_at_us=time.time_ns() // 1000, took_us=took_us)
        while not (self._write(ENDED, told_end(ended), sync=True) or self._hurry or self._is_moved()):
            self._pause(TRY_AGAIN_S)  # a full disk; where the folder is gone, nobody would ever read it
        return 0 if ended.exit_code == 0 else 1

    def _lead(self) -> Exit:
        try:
            handle = self._start()
        except LaunchError as error:
            too_long = isinstance(error, TooLongError)
            return Exit(handle="", exit_code=None, fault=str(error)[:4000], too_long=too_long)
        if handle is None:
            return Exit(handle="", exit_code=None, lost="it was ended before it could begin")
        ended = self._wait(handle)
        if ended.exit_code in _BY_SIGNAL and not (self._asked or self._told or self._timed_out):
            self._pause(MOMENT_S)
        return ended

    def _start(self) -> str | None:
        """Start the task, as soon as the machine has room for it; None: its end was wanted before."""
        while not (self._asked or self._told or self._timed_out):
            try:
                handle = self._executor.start(self._launch)
            except LaunchError as error:
                if shortage_of(error) is None:
                    raise
                self._pause(TRY_AGAIN_S)
                continue
            identity = self._executor.identity(handle)
            if identity is not None:
                self._write(TASK, json.dumps(identity._asdict()).encode())
            return handle
        return None

    def _wait(self, handle: str) -> Exit:
        while True:
            if self._asked or self._told or self._timed_out:
                self._press(handle)
            exits = self._executor.wait(max(0.0, self._due_s() - time.monotonic()))
            self.woken()
            if exits:
                return exits[0]
            self._look()

    def _press(self, handle: str) -> None:
        """Send TERM once, and KILL when the grace period is over, or at once when that is wanted."""
        now_s = time.monotonic()
        if self._hurry or now_s >= self._kill_s:
            self._hurry = False
            self._kill_s = now_s + 1.0
            self._executor.end(handle, force=True)
        elif self._kill_s == _NEVER:
            self._kill_s = now_s + self._grace_s
            self._executor.end(handle, force=False)

    def _pause(self, seconds: float) -> None:
        """Wait, and take in what is ordered meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._executor.wait(left_s)
            self.woken()
            self._look()

    def _due_s(self) -> float:
        ending = self._asked or self._told or self._timed_out
        return min(self._look_s, self._kill_s if ending else self._limit_s)

    def _tell(self, *_: object) -> None:
        with suppress(BlockingIOError):  # full of orders, one of which will do
            os.write(self._orders, TOLD)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are orders."""
        return self._orders

    def woken(self) -> None:
        """Take in what was ordered."""
        with suppress(BlockingIOError):
            said = os.read(self._orders, 4096)
            self._asked |= END in said or KILL in said
            self._told |= TOLD in said or DROP in said
            self._hurry |= KILL in said or DROP in said

    def _look(self) -> None:
        """See whether the time limit is over, and whether the folder is still in its place."""
        now_s = time.monotonic()
        if now_s >= self._limit_s and not (self._asked or self._told):
            self._timed_out = True
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_EVERY_S
            self._told |= self._is_moved()

    def _is_moved(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._folder), os.stat(self._path))
        except OSError as error:
            return isinstance(error, FileNotFoundError | NotADirectoryError)

    def _write(self, name: str, data: bytes, *, sync: bool = False) -> bool:
        """Put a file in place, whole or not at all; return whether it is there."""
        half = f"{name}.new"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(half, flags, 0o600, dir_fd=self._folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.rename(half, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            if sync:
                os.fsync(self._folder)
        except OSError:
            return False
        return True


def _uptime_us() -> int:
    return time.clock_gettime_ns(_AWAKE_OR_ASLEEP) // 1000


def _mask_file(path: str, mask: Any) -> None:
    """Mask the file of outputs in its place: whoever reads it does not know what to look for."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_size > MAX_OUTPUT_BYTES:
            return
        data = masked(file.read() or b"", mask)
        file.seek(0)
        file.truncate()
        while data:
            data = data[file.write(data) or 0 :]


def main() -> int:
    """Read the order and lead its attempt; return the exit status."""
    try:
        order = marshal.load(sys.stdin.buffer)  # noqa: S302 - from the process that started this one, through a pipe of its own
    except (EOFError, ValueError, TypeError):
        return 1  # whoever started this process was gone before all was said
    return Guardian(order).run()


if __name__ == "__main__":
    os._exit(main())  # all is written by now, and to take an interpreter down takes as long as a short task
