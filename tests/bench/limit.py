"""What this machine can do at all: start ``sh -c true``, start a Python, put 4 KiB on its disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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


def command_ms(command: list[str], env: dict[str, str] | None = None) -> float:
    """Return the milliseconds of a whole process, which has to end with status 0."""
    began_s = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - began_s) * 1000


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
