"""Two pipes to a process that keeps the logs of one task, and masks its secrets in them (``cis.executors.log_keeper``).

For a task that was given secrets, and for one that may outlive its attempt or its worker. The process is in a session
of its own, so no signal that is meant for the task reaches it and it can pass on the last that the task wrote. It
carries the marks of the attempt, so whoever ends what a dead worker left finds it as well.
"""

from __future__ import annotations

import os
import subprocess
import sys

from cis.engine.ports import Launch
from cis.errors import LaunchError
from cis.executors.exits import Process
from cis.executors.logcap import NOTHING, tail_of_file
from cis.executors.streams import Written
from cis.store.records import TAIL_BYTES

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "log_keeper.py")
_MARK = "CIS_"
_PIECE_BYTES = 1 << 16


class KeptStreams:
    """A process that keeps the logs of a task, and the ends of its pipes that the task is to be given.

    ``answer`` is a descriptor that becomes readable when the process tells what the task wrote.

    Raises:
        LaunchError: the process cannot be started, or does not take what it is to look for.
    """

    __slots__ = ("_asking", "_launch", "_said", "answer", "answered", "process", "writers")

    def __init__(self, launch: Launch, *, cap: int) -> None:
        self._launch = launch
        self._said = b""
        self.answered = False
        pipes: list[int] = []
        try:
            for _ in range(4):
                pipes += os.pipe()
            self.process = _started(launch, cap=cap, pipes=pipes)
        except OSError as error:
            _close(pipes)
            raise LaunchError(_refusal(error)) from error
        out, err, asked, answer = pipes[::2]
        self.writers = (pipes[1], pipes[3])
        self._asking = pipes[5]
        self.answer = answer
        _close([out, err, asked, pipes[7]])
        os.set_blocking(answer, False)
        try:
            _tell(self._asking, b"".join(needle + b"\n" for needle in launch.mask) + b"\n")
        except OSError as error:
            self.close()
            self.process.wait()
            raise LaunchError(_refusal(error)) from error

    def hand_over(self) -> None:
        """Close the ends that the task now has; once the task's are closed as well, the process ends by itself."""
        _close([descriptor for descriptor in self.writers if descriptor != NOTHING])
        self.writers = (NOTHING, NOTHING)

    def ask(self) -> None:
        """Ask what the task wrote, now that it has ended."""
        if self._asking != NOTHING:
            os.close(self._asking)
            self._asking = NOTHING

    def listen(self) -> None:
        """Take in what has been answered."""
        try:
            while data := os.read(self.answer, _PIECE_BYTES):
                self._said += data
        except BlockingIOError:
            return
        self.answered = True

    def finish(self) -> Written:
        """Return what the task wrote, as the process told it or, where it did not, as its files have it."""
        self.close()
        head, _, tails = self._said.partition(b"\n")
        if not self.answered or not head:
            files = self._launch.stdout, self._launch.stderr
            out, err = (tail_of_file(path, tail_bytes=TAIL_BYTES) for path in files)
            return Written(*out, *err)
        out_bytes, out_tail, err_bytes, _ = map(int, head.split())
        return Written(tails[:out_tail].decode(), out_bytes, tails[out_tail:].decode(), err_bytes)

    @property
    def failed(self) -> bool:
        """Whether the process has ended without an answer."""
        return self.answered and not self._said

    def close(self) -> None:
        """Give all descriptors back; the process goes on as long as somebody can write to it."""
        self.hand_over()
        self.ask()
        if self.answer != NOTHING:
            os.close(self.answer)
            self.answer = NOTHING


def _started(launch: Launch, *, cap: int, pipes: list[int]) -> Process:
    out, err = pipes[0], pipes[2]
    numbers = [str(number) for number in (out, err, cap, TAIL_BYTES)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _SCRIPT, *numbers, os.fspath(launch.stdout), os.fspath(launch.stderr)],
        stdin=pipes[4],
        stdout=pipes[7],
        stderr=subprocess.DEVNULL,
        pass_fds=(out, err),
        env={name: value for name, value in launch.env.items() if name.startswith(_MARK)},
        start_new_session=True,
    )


def _tell(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _refusal(error: OSError) -> str:
    return f"the process that masks the task's secrets and keeps its logs cannot be started: {error.strerror}"
