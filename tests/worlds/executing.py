"""Attempts of an executor: how one is launched, and how its end and its log are seen."""

from __future__ import annotations

import os
from pathlib import Path

from cis.engine.ports import Exit, Launch
from cis.executors.local import LocalExecutor
from tests.worlds.waiting import wait_for


def launch(
    folder: Path,
    *argv: str,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    name: str = "task",
    leave: bool = False,
) -> Launch:
    """Return a launch of *argv*, or of a shell line, with its logs in *folder*."""
    marks = {"CIS_RUN_ID": str(folder), "CIS_TASK_ID": name, "CIS_ATTEMPT": "1"}
    return Launch(
        argv=argv if len(argv) > 1 else ("/bin/sh", "-c", *argv),
        env={"PATH": os.environ["PATH"], **marks} if env is None else env,
        cwd=folder if cwd is None else cwd,
        stdin=stdin,
        stdout=folder / f"{name}.out",
        stderr=folder / f"{name}.err",
        outputs="",
        marks=marks,
        leave=leave,
        handle=name,
    )


def run(executor: LocalExecutor, wanted: Launch) -> Exit:
    """Start a process and return its end."""
    handle = executor.start(wanted)
    return end_of(executor, handle)


def end_of(executor: LocalExecutor, handle: str) -> Exit:
    """Wait for the end of one process; nothing else may end meanwhile."""
    (ended,) = wait_for(lambda: executor.wait(0.2), what="the end of the process")
    assert ended.handle == handle
    return ended


def shown(executor: LocalExecutor, path: Path) -> str:
    """Return what can be read of a log while nothing ends: whoever has an executor waits with it all the time."""
    assert executor.wait(0.02) == []
    return path.read_text() if path.exists() else ""
