"""A disk that is full, that fails or that was damaged: a clear error, and work goes on by itself where it can."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos.small_disk import family, fill, limit_files, make_room, remount, small_disk
from tests.worlds.battery import figures, first_seed, size
from tests.worlds.harness import NodeProcess, Sandbox, make_sandbox, write_dag
from tests.worlds.waiting import wait_for

LARGE = "x" * 100_000


def dag(number: int, *, description: str = "") -> dict[str, Any]:
    """Return a DAG of three tasks that write nothing."""
    tasks = [
        {"id": "a", "command": "true"},
        {"id": "b", "command": "sleep 0.1"},
        {"id": "c", "command": "true", "depends_on": ["a", "b"]},
    ]
    return {"dag_id": f"proj-{number % 2}-x", "description": description, "tasks": tasks}


class Disturbed:
    """A node whose disk fails at times, and what it has accepted."""

    def __init__(self, node: NodeProcess, disk: Path, random: Random) -> None:
        self._node = node
        self._disk = disk
        self._random = random
        self.accepted: list[str] = []
        self.refused = 0
        self._caught_up = 0

    def submit(self, *, description: str = "") -> bool:
        """Hand in a DAG; return whether it was accepted. A refusal has to say what is wrong and when to come back."""
        # Each is another document, which needs room of its own, whatever room deleted rows have left.
        number = len(self.accepted)
        answer = self._node.execute(dag(number, description=f"{number} {description}"))
        if answer.status == 202:
            self.accepted.append(answer.body["run_id"])
            return True
        assert answer.status == 503, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.body["code"] in ("store", "store.full")
        assert "cis.db" in answer.body["detail"]
        self.refused += 1
        return False

    def ready(self) -> bool:
        """Return whether it says that it takes DAGs; if not, it has to say why."""
        answer = self._node.call("GET", "/ready", token=None)
        assert answer.status == 200 or (answer.body["code"] == "not_ready" and answer.body["detail"])
        return answer.status == 200

    def fill(self) -> None:
        fill(self._disk, leave=self._random.choice([0, 0, 4096, 50_000, 300_000]))

    def limit(self) -> None:
        limit_files(self._node.process.pid, self._random.choice([1, 40_000, 90_000]))

    def catch_up(self) -> None:
        """Wait until all that was accepted so far has completed, by itself."""
        for run_id in self.accepted[self._caught_up :]:
            assert self._node.finished(run_id)["status"] == "completed"
        self._caught_up = len(self.accepted)

    def mend(self) -> None:
        """Let it write again: also what was started meanwhile."""
        limit_files(self._node.process.pid, -1)


@pytest.mark.timeout(1700)
def test_a_node_says_that_its_disk_fails_and_goes_on_by_itself_when_it_does_not(tmp_path: Path) -> None:
    times, random = size(20, 200), Random(first_seed())  # noqa: S311 - repeatable, not secret
    with small_disk(tmp_path / "home", mib=size(64, 512)) as disk:
        sandbox = make_sandbox(tmp_path)
        with sandbox.node(CIS_MAX_WORKERS="4") as node:
            disturbed = Disturbed(node, disk, random)
            for number in range(times):
                disturb(disturbed, disk, random)
                if number % 10 == 9:
                    disturbed.catch_up()
            disturbed.catch_up()
        check_books(sandbox, disturbed)
    figures("disk", times=times, accepted=len(disturbed.accepted), refused=disturbed.refused, lost=0)


def disturb(node: Disturbed, disk: Path, random: Random) -> None:
    """Have the disk fail under work once, until that was noticed, and then not any more."""
    node.submit()
    kind = random.choice(["full", "limit"])
    if kind == "full":
        node.fill()
    else:
        node.limit()
    wait_for(lambda: not node.ready(), timeout_s=10, what=f"/ready to notice that the disk is {kind}")
    wait_for(lambda: not node.submit(description=LARGE), timeout_s=20, what="a refusal")
    if kind == "full":
        make_room(disk)
    else:
        node.mend()
    wait_for(node.ready, timeout_s=20, what="/ready to notice that the disk is fine again")
    assert node.submit()
    node.mend()


def check_books(sandbox: Sandbox, node: Disturbed) -> None:
    """Every run that was accepted is there, and each of its tasks succeeded once."""
    runs = {run_id for (run_id,) in sandbox.rows("SELECT run_id FROM dag_runs")}
    assert set(node.accepted) <= runs
    successes = sandbox.rows(
        "SELECT count(*) FROM run_tasks t WHERE 1 != (SELECT count(*) FROM task_executions e"
        " WHERE e.run_id = t.run_id AND e.task_no = t.task_no AND e.status = 'completed')"
    )
    assert successes == [(0,)]
    assert sandbox.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Sandbox]:
    """A home that is a small disk of its own, with one run that is over."""
    with small_disk(tmp_path / "home", mib=8):
        sandbox = make_sandbox(tmp_path)
        sandbox.json("dag", "run", write_dag(tmp_path, dag(0)))
        yield sandbox


@pytest.mark.parametrize(("leave", "closed"), [(0, True), (20_000, True), (200_000, True), (0, False)], ids=str)
def test_a_node_that_is_started_on_a_full_disk_says_so_and_begins_when_there_is_room(
    small_home: Sandbox, tmp_path: Path, *, leave: int, closed: bool
) -> None:
    """What it had accepted before goes on then, under the id that it had.

    Where the database was *closed* by whoever used it last, it cannot even be opened.
    """
    small_home.json("init")
    token = (small_home.home / "token").read_text().strip()
    held = f"until test -e {tmp_path}/go; do sleep 0.05; done"
    with small_home.node() as node:
        run_id = node.execute({"dag_id": "held", "tasks": [{"id": "t", "command": held}]}).body["run_id"]
        node.call("POST", f"/api/v1/runs/{run_id}/pause")
    (tmp_path / "go").touch()
    if closed:
        small_home.json("dag", "list")
        assert not list(small_home.home.glob("cis.db-*"))
    fill(small_home.home, leave=leave)
    with on_port(small_home) as node:
        wait_for(lambda: answered(node) is not None, timeout_s=30, what="the node to answer")
        ready = node.call("GET", "/ready", token=None)
        waits = "this node waits for room" in small_home.node_log()
        refused = node.execute(dag(1) if waits else dag(1, description=10 * LARGE))
        make_room(small_home.home)
        wait_for(lambda: node.call("GET", "/ready", token=None).status == 200, timeout_s=30, what="/ready to be fine")
        after = node.finished(node.execute(dag(2)).body["run_id"])
        node.call("POST", f"/api/v1/runs/{run_id}/resume")
        before = node.finished(run_id)
        wait_for((small_home.home / "run" / "node.json").exists, what="the commands to be told where it is")

    assert ready.status == 503
    assert "full" in ready.body["detail"]
    assert waits or not closed or leave
    assert (refused.status, refused.body["code"]) == (503, "store.full")
    assert refused.headers["retry-after"]
    assert before["status"] == after["status"] == "completed"
    assert before["owner_node"] == after["owner_node"]
    assert (small_home.home / "token").read_text().strip() == token


def test_a_node_that_waits_for_room_stops_when_it_is_told_to(small_home: Sandbox) -> None:
    small_home.json("init")
    fill(small_home.home)
    with on_port(small_home) as node:
        wait_for(lambda: answered(node) is not None, timeout_s=30, what="the node to answer")
    make_room(small_home.home)


@contextmanager
def on_port(sandbox: Sandbox) -> Iterator[NodeProcess]:
    """Start a node on a port that is known before: it cannot write down where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (sandbox.home.parent / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cis", "node", "start", "--port", str(port)],
            env=dict(sandbox.env), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield NodeProcess(f"http://127.0.0.1:{port}", (sandbox.home / "token").read_text().strip(), process)
    finally:
        process.terminate()
        status = process.wait(45)
    assert status == 0, sandbox.node_log()[-2000:]


def answered(node: NodeProcess) -> int | None:
    """Return what a node says of its health, if it answers at all."""
    assert node.process.poll() is None
    try:
        return node.call("GET", "/health", token=None).status
    except OSError:
        return None


WRITES = (("dag", "run"), ("dag", "save"))


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_every_command_says_what_is_wrong_with_the_disk_and_works_when_it_is_not(
    small_home: Sandbox, tmp_path: Path, trouble: str
) -> None:
    small_home.json("init")
    token = (small_home.home / "token").read_bytes()
    document = write_dag(tmp_path, dag(1))
    if trouble == "full":
        fill(small_home.home)
    else:
        remount(small_home.home, "ro")
    try:
        said = [small_home.cis(*command, document) for command in WRITES]
        said.append(small_home.cis("token", "create", "x"))
        if trouble != "full":  # else it comes up, and waits for room
            said.append(small_home.cis("node", "start", "--port", "0"))
        rotated = small_home.cis("token", "rotate")
        checked = small_home.json("doctor", expect=1)
    finally:
        if trouble == "full":
            make_room(small_home.home)
        else:
            remount(small_home.home, "rw")
    faults = [finding for finding in checked["findings"] if not finding["ok"]]
    words = {"full": ("the disk is full", "no space left"), "read-only": ("read-only",)}[trouble]

    for done in said:
        assert done.returncode == 1
        assert any(word in done.stderr.lower() for word in words)
        assert "Traceback" not in done.stderr
    assert rotated.returncode == 1
    assert any(word in rotated.stderr.lower() for word in words)
    assert not list(small_home.home.glob(".token*"))
    assert any(words[0] in finding["fault"] and "restore" not in finding["mend"] for finding in faults)
    assert small_home.json("dag", "run", document)["status"] == "completed"
    assert small_home.json("db", "check")["ok"]
    assert (small_home.home / "token").read_bytes() == token


def test_a_task_whose_log_fills_the_disk_ends_as_it_would_and_the_node_goes_on_once_there_is_room(
    small_home: Sandbox,
) -> None:
    """Until then its end waits in the worker."""
    task = {"id": "loud", "command": "head -c 20000000 /dev/zero; exit 3"}
    with small_home.node() as node:
        run_id = node.execute({"dag_id": "loud", "tasks": [task]}).body["run_id"]
        wait_for(lambda: node.call("GET", "/ready", token=None).status == 503, what="/ready to notice it")
        wait_for(lambda: not _children(node.process.pid, "head"), what="the end of the task")
        for file in small_home.home.glob("logs/*/*.out"):
            os.truncate(file, 0)
        failed = node.finished(run_id)
        after = node.finished(node.execute(dag(2)).body["run_id"])

    assert failed["tasks"][0]["exit_code"] == 3
    assert after["status"] == "completed"


def test_outputs_that_fill_the_disk_go_with_the_end_of_their_task(small_home: Sandbox) -> None:
    go = small_home.home.parent / "go"
    hold = f"until test -e {go}; do sleep 0.05; done; exit 3"
    task = {"id": "names", "command": f'head -c 20000000 /dev/zero > "$CIS_OUTPUT" || true; {hold}'}
    with small_home.node() as node:
        run_id = node.execute({"dag_id": "names", "tasks": [task]}).body["run_id"]
        wait_for(lambda: node.call("GET", "/ready", token=None).status == 503, what="/ready to notice it")
        go.touch()
        failed = node.finished(run_id)
        assert not list(small_home.home.glob("logs/.live/*.outputs"))
        after = node.finished(node.execute(dag(2)).body["run_id"])

    assert failed["tasks"][0]["exit_code"] == 3
    assert after["status"] == "completed"


def _children(pid: int, name: str) -> list[int]:
    found = []
    for each in family(pid):
        with suppress(OSError):
            found += [each] * (Path(f"/proc/{each}/comm").read_text().strip() == name)
    return found


def test_a_folder_for_logs_that_cannot_be_made_fails_the_task_with_the_reason(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path)
    with sandbox.node() as node:
        node.finished(node.execute(dag(1)).body["run_id"])  # its worker stays for a while
        shutil.rmtree(sandbox.home / "logs")
        (sandbox.home / "logs").write_text("in the way")
        failed = node.finished(node.execute(dag(1)).body["run_id"])
        (sandbox.home / "logs").unlink()
        after = node.finished(node.execute(dag(1)).body["run_id"])

    assert failed["status"] == "failed"
    assert "the folder for the files of tasks cannot be made" in failed["tasks"][0]["error"]
    assert after["status"] == "completed"
