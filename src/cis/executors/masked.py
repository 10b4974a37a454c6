"""Two pipes to a process that masks secrets (``cis.executors.masking_filter``), in place of the log files of a task.

The process is in a session of its own, so no signal that is meant for the task reaches it and it can pass on the last
that the task wrote. It carries the marks of the attempt, so whoever ends what a dead worker left finds it as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from cis.engine.ports import Launch
from cis.errors import LaunchError
from cis.executors.exits import Process

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "masking_filter.py")
_MARK = "CIS_"


@dataclass(frozen=True, slots=True)
class MaskedStreams:
    """A masking process, and the ends of its pipes that the task is to be given."""

    process: Process
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close the ends here; once the task's are closed as well, the process ends by itself."""
        os.close(self.stdout)
        os.close(self.stderr)


def mask_streams(launch: Launch, *, stdout: int, stderr: int) -> MaskedStreams:
    """Start a process that masks what *launch* says, and writes to the descriptors *stdout* and *stderr*.

    Raises:
        LaunchError: it cannot be started, or does not take what it is to look for.
    """
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _SCRIPT, str(pipes[0]), str(pipes[2])],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(pipes[0], pipes[2]),
            env={name: value for name, value in launch.env.items() if name.startswith(_MARK)},
            start_new_session=True,
        )
    except OSError as error:
        _close(pipes)
        raise _refused(error) from error
    _close([pipes[0], pipes[2]])
    try:
        _tell(process, launch)
    except OSError as error:
        _close([pipes[1], pipes[3]])
        process.kill()
        process.wait()
        raise _refused(error) from error
    return MaskedStreams(process, pipes[1], pipes[3])


def _tell(process: subprocess.Popen[bytes], launch: Launch) -> None:
    if process.stdin is not None:
        with process.stdin as pipe:
            pipe.write(b"\n".join(launch.mask))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _refused(error: OSError) -> LaunchError:
    return LaunchError(f"the process that masks the task's secrets cannot be started: {error.strerror}")
