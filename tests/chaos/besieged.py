"""A home under attack: its node, its workers and its tasks, found in ``/proc`` and ended by pid, and what must hold after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cis.executors.platform import all_pids, environment_of
from tests.worlds.harness import NodeProcess, Sandbox, make_sandbox
from tests.worlds.waiting import wait_for

Attempt = tuple[str, str, int]
WITH_PROCESS = ("a", "b", "c[x]", "c[y]", "handlers.exit")  # the tasks of a run that have attempts

# Each attempt of a task leaves a file of its own; the same one twice, or two side by side, leave one that says so.
_TASK = """
id=$CIS_RUN_ID.$CIS_TASK_ID
( set -C; : > "{marks}/began.$id.$CIS_ATTEMPT" ) 2>/dev/null || : > "{marks}/twice.$id.$CIS_ATTEMPT"
exec 9>>"{marks}/lock.$id"
flock -n 9 || : > "{marks}/overlap.$id.$CIS_ATTEMPT"
sleep {seconds} 9>&-
: > "{marks}/done.$id.$CIS_ATTEMPT"
"""


@dataclass(slots=True)
class Besieged:
    """One home: starts its node anew whenever it was killed, and knows every process of it."""

    sandbox: Sandbox
    marks: Path
    lease_s: float
    node: subprocess.Popen[bytes] | None = None
    starts: int = field(default=0)

    @property
    def home(self) -> Path:
        return self.sandbox.home

    def start_node(self) -> None:
        """Start the node; ``reach`` finds it when it listens."""
        with (self.home.parent / "node.log").open("ab") as log:
            self.node = subprocess.Popen(
                [sys.executable, "-m", "cis", "node", "start", "--port", "0"],
                env=dict(self.sandbox.env),
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    def reach(self) -> NodeProcess | None:
        """Return the node that runs now, once it has said where it listens."""
        node = self.node
        assert node is not None
        try:
            told = json.loads((self.home / "run" / "node.json").read_text())
            token = (self.home / "token").read_text().strip()
        except (FileNotFoundError, ValueError):
            return None
        return NodeProcess(told["url"], token, node) if told["pid"] == node.pid else None

    def kill_node(self) -> None:
        """End the node with KILL."""
        assert self.node is not None
        self.node.kill()
        self.node.wait()

    def stop(self) -> int:
        """Stop the node in good order, and return its status."""
        assert self.node is not None
        self.node.terminate()
        return self.node.wait(timeout=60)

    def end_everything(self) -> None:
        """Kill whatever is left of this home, so that a failed test leaves nothing."""
        if self.node is not None and self.node.poll() is None:
            self.kill_node()
        for pid in [*self.workers(), *self.tasks()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the pids of the worker processes of this home."""
        entry = b"CIS_HOME=" + os.fsencode(self.home)
        return [
            pid
            for pid in all_pids()
            if entry in (environment_of(pid) or ()) and b"\0worker\0run\0" in _command_line(pid)
        ]

    def tasks(self) -> dict[int, Attempt]:
        """Return the processes of this home that carry the marks of an attempt."""
        within = b"CIS_OUTPUT=" + os.fsencode(self.home) + b"/"
        found: dict[int, Attempt] = {}
        for pid in all_pids():
            environment = environment_of(pid) or frozenset()
            if any(entry.startswith(within) for entry in environment):
                values = dict(entry.split(b"=", 1) for entry in environment if b"=" in entry)
                run_id, task_id = values[b"CIS_RUN_ID"].decode(), values[b"CIS_TASK_ID"].decode()
                found[pid] = (run_id, task_id, int(values[b"CIS_ATTEMPT"]))
        return found

    def document(self, name: str, seconds: Sequence[float]) -> Mapping[str, Any]:
        """Return a DAG of three tasks in scope *name*, the second and third after the first, the third made into two.

        A handler follows. Each of the five that have a process does the same for its time, the handler for the shortest.
        """
        after = {"a": {}, "b": {"depends_on": ["a"]}, "c": {"depends_on": ["a"], "foreach": ["x", "y"]}}
        tasks = [
            {"id": task_id, **self._work(length), **after[task_id]}
            for task_id, length in zip("abc", seconds, strict=True)
        ]
        return {"dag_id": f"proj-{name}-x", "tasks": tasks, "handlers": {"exit": self._work(min(seconds))}}

    def _work(self, seconds: float) -> dict[str, Any]:
        command = _TASK.format(marks=self.marks, seconds=f"{seconds:.3f}")
        return {"command": command, "max_retries": 100, "max_losses": 0, "retry_delay": "20ms"}

    def attempts(self, where: str = "1") -> set[Attempt]:
        """Return stored attempts."""
        rows = self.sandbox.rows(f"SELECT run_id, task_id, attempt FROM task_executions WHERE {where}")  # noqa: S608
        return {(str(run_id), str(task_id), int(attempt)) for run_id, task_id, attempt in rows}

    def unfinished(self) -> int:
        """Return how many runs are not over."""
        rows = self.sandbox.rows(
            "SELECT count(*) FROM dag_runs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
        )
        return int(rows[0][0])

    def marked(self, kind: str) -> set[Attempt]:
        """Return the attempts that left a file of this kind."""
        found = (path.name.split(".") for path in self.marks.glob(f"{kind}.*"))
        return {(run_id, ".".join(task_id), int(attempt)) for _, run_id, *task_id, attempt in found}

    def check_no_lost_attempt_lives(self) -> None:
        """Whatever the rows call lost was ended before they did."""
        lost = self.attempts("status = 'lost'")
        alive = {attempt: pid for pid, attempt in self.tasks().items() if attempt in lost}
        assert not alive, f"orphans beside their successors: {alive}"

    def check_nothing_is_left(self) -> None:
        """No process of a task or worker is there after two lease times."""
        left: list[object] = []

        def gone() -> bool:
            left[:] = [*self.workers(), *self.tasks().items()]
            return not left

        with suppress(AssertionError):
            wait_for(gone, timeout_s=2 * self.lease_s, what="the end of every process")
        assert not left, f"still there after two lease times: {left}"

    def check_once(self, accepted: Mapping[str, str]) -> None:
        """Every accepted key has one run, which completed, and each of its tasks one success that was really worked for."""
        runs = dict(self.sandbox.rows("SELECT run_id, status FROM dag_runs"))
        assert set(runs) == set(accepted.values()), "a run without an acceptance, or the other way round"
        assert len(runs) == len(accepted), "two acceptances of one key"
        assert set(runs.values()) == {"completed"}, {run: state for run, state in runs.items() if state != "completed"}
        doubled = self.sandbox.rows(
            "SELECT run_id, task_no, sum(status = 'completed') FROM task_executions GROUP BY 1, 2"
            " HAVING sum(status = 'completed') != 1"
        )
        assert doubled == [], "not one success for each task"
        strange = self.sandbox.rows(
            "SELECT status, error, count(*) FROM task_executions"
            " WHERE status NOT IN ('completed', 'lost') AND error NOT LIKE 'ended by signal 9 %' GROUP BY 1, 2"
        )
        assert strange == []
        completed = self.attempts("status = 'completed'")
        assert len(completed) == len(WITH_PROCESS) * len(accepted)
        whole = self.sandbox.rows(
            "SELECT run_id, group_concat(task_id, ' ') FROM (SELECT * FROM run_tasks ORDER BY run_id, task_no) GROUP BY 1"
        )
        assert {ids for _, ids in whole} == {"a b c c[x] c[y] handlers.exit"}, "what was added is not there once"
        assert completed <= self.marked("done"), "a success without its work"
        assert self.marked("began") <= self.attempts(), "a process without a row"
        assert self.marked("twice") == set(), "one attempt was started twice"
        assert self.marked("overlap") == set(), "two attempts of a task side by side"


def besieged(folder: Path, *, lease_s: float) -> Besieged:
    """Return a home in *folder* whose workers have that lease, and whose node does not run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    sandbox = make_sandbox(folder)
    sandbox.home.mkdir(mode=0o700)
    settings = f'[worker]\nlease = "{lease_s:g}s"\ngrace = "300ms"\nslots = 4\nmax_workers = 4\n'
    (sandbox.home / "cis.toml").write_text(settings)
    marks = folder / "marks"
    marks.mkdir()
    return Besieged(sandbox, marks, lease_s)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
