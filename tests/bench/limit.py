"""What this machine can do at all: start ``sh -c true``, start a Python, put 4 KiB on its disk."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.figures import LostError

SHELL = "/bin/sh"
TRUE = ["sh", "-c", "true"]


def spawn_rate(count: int, *, in_flight: int) -> float:
    """Start *count* times ``sh -c true``, so many at once, and return starts a second."""
    began_s = time.perf_counter()
    flying: list[int] = []
    for _ in range(count):
        flying.append(os.posix_spawn(SHELL, TRUE, os.environ))
        if len(flying) == in_flight:
            os.waitpid(flying.pop(0), 0)
    for pid in flying:
        os.waitpid(pid, 0)
    return count / (time.perf_counter() - began_s)


def spawn_and_wait_ms() -> float:
    """Start ``sh -c true`` once, wait for its end, and return the milliseconds of both."""
    return 1000 / spawn_rate(1, in_flight=1)


def python_ms() -> float:
    """Return the milliseconds of a whole ``python -c pass``."""
    return command_ms([sys.executable, "-c", "pass"])


def command_ms(command: list[str], env: dict[str, str] | None = None, *, timeout_s: float = 60) -> float:
    """Return the milliseconds of a whole process, which has to end with status 0.

    Its end is waited for by its pidfd: ``subprocess`` with a timeout looks again and again instead, at last every 50 ms.
    """
    began_s = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    pidfd = os.pidfd_open(process.pid)
    try:
        ended, _, _ = select.select([pidfd], [], [], timeout_s)
        took_s = time.perf_counter() - began_s
    finally:
        os.close(pidfd)
        process.kill()  # which does nothing to one that has ended
        status = process.wait()
    if not ended or status:
        raise LostError(f"{' '.join(command)} ended with {status} after {took_s:.1f} s")
    return took_s * 1000


def append_ms(folder: Path, *, count: int = 100) -> list[float]:
    """Return the milliseconds of *count* appends of 4 KiB, each flushed to the disk before the next."""
    path = folder / "append"
    block, times = bytes(4096), []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            began_s = time.perf_counter()
            os.write(file, block)
            os.fsync(file)
            times.append((time.perf_counter() - began_s) * 1000)
    finally:
        os.close(file)
        path.unlink()
    return times
