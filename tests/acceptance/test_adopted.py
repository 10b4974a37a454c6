"""``on_lost: adopt``: a task goes on without its worker and its node, and is taken up again; what it asks for holds all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cis.executors.attempt_folder import BEGUN, AttemptFolders
from cis.node.home import Home
from tests.worlds.harness import NodeProcess, Sandbox, alive, write_dag
from tests.worlds.versions import later_source, running
from tests.worlds.waiting import wait_for

LONG_S = 30.0


@pytest.fixture(autouse=True)
def short_lease(sandbox: Sandbox) -> None:
    """Give workers a lease of two seconds, and tasks one second to end."""
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[worker]\nlease = "2s"\ngrace = "1s"\n')


def lasting(folder: Path, *, then: str = "echo said=all >> $CIS_OUTPUT", **more: Any) -> dict[str, Any]:
    """Return a DAG whose task says its pid, waits for the file ``go``, and says something before and after."""
    command = (
        f"exec 9>>{folder}/lock; flock -n 9 || touch {folder}/overlap; echo $$ >> {folder}/pids; echo before;"
        f" until test -e {folder}/go; do sleep 0.02; done; echo after; {then}"
    )
    return {"dag_id": "lasts", "tasks": [{"id": "t", "command": command, "on_lost": "adopt", **more}]}


def pids(folder: Path) -> list[int]:
    """Return the pid of each attempt so far, once there is one."""
    file = folder / "pids"
    return [int(pid) for pid in wait_for(lambda: file.read_text().split() if file.exists() else [], what="the task")]


def worker(sandbox: Sandbox) -> int | None:
    """Return the worker that lives, as its row says."""
    rows = sandbox.rows("SELECT pid FROM workers WHERE status NOT IN ('dead', 'stopped')")
    return int(rows[0][0]) if rows else None


def attempts(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    return sandbox.rows("SELECT attempt, status, exit_code FROM task_executions WHERE task_id = 't' ORDER BY attempt")


def kill(node: NodeProcess) -> None:
    """Kill a node, and tell the harness that it is meant to have ended so."""
    node.process.kill()
    node.process.wait()
    node.process.returncode = 0


def adopted(sandbox: Sandbox) -> bool:
    """Whether the worker that lives holds the run, and looks after its task."""
    rows = sandbox.rows(
        "SELECT 1 FROM worker_queue q JOIN workers w USING (node_id, worker_id)"
        " WHERE q.status = 'claimed' AND q.epoch = w.epoch AND w.status = 'busy'"
    )
    return bool(rows)


def guardian(sandbox: Sandbox) -> int:
    """Return the process that leads the one lasting attempt there is."""
    folders = AttemptFolders(Home(sandbox.home).attempts)
    (handle,) = wait_for(folders.handles, what="a lasting attempt")
    found = wait_for(lambda: folders.process(handle, BEGUN), what="the process that leads it")
    assert found is not None
    return found.pid


def nothing_is_kept(sandbox: Sandbox) -> bool:
    """Whether nothing of any lasting attempt is left in the home."""
    home = Home(sandbox.home)
    return not AttemptFolders(home.attempts).handles() and not list((home.logs / ".live").glob("*"))


@contextmanager
def node_that_holds_it(sandbox: Sandbox) -> Iterator[NodeProcess]:
    """Start a node, which takes the run up."""
    with sandbox.node() as node:
        wait_for(lambda: adopted(sandbox), timeout_s=LONG_S, what="a worker that holds the run")
        yield node


def interrupt(sandbox: Sandbox, folder: Path, way: str, **more: Any) -> str:
    """Hand the DAG in, interrupt its worker, its node, or both, and return the run."""
    with sandbox.node() as node:
        run_id: str = node.execute(lasting(folder, **more)).body["run_id"]
        pids(folder)
        first = worker(sandbox)
        assert first is not None
        if way == "its worker":
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: worker(sandbox) not in (None, first), timeout_s=LONG_S, what="the next worker")
            wait_for(lambda: adopted(sandbox), timeout_s=LONG_S, what="a worker that holds the run")
        if way == "both":
            os.kill(first, signal.SIGSTOP)  # or it would see the end of its node, and stop in good order
        if way in ("its node", "both"):
            kill(node)
        if way == "both":
            os.kill(first, signal.SIGKILL)
    return run_id


@pytest.mark.parametrize("way", ["its worker", "its node", "both", "a stop of its node"])
def test_a_task_goes_on_through_the_end_of(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    run_id = interrupt(sandbox, tmp_path, way)
    with node_that_holds_it(sandbox) as node:
        (tmp_path / "go").touch()
        run = node.finished(run_id)
    logs = sandbox.cis("dag", "logs", "lasts").stdout

    assert run["status"] == "completed"
    assert run["tasks"][0]["outputs"] == {"said": "all"}
    assert attempts(sandbox) == [(1, "completed", 0)]
    assert len(pids(tmp_path)) == 1
    assert "before\n" in logs
    assert "after\n" in logs
    assert nothing_is_kept(sandbox)


def test_a_task_that_ends_while_nobody_looks_has_its_exit_status_its_log_and_its_outputs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node() as node:
        good = node.execute(lasting(tmp_path)).body["run_id"]
        bad = node.execute(lasting(tmp_path, then="exit 7") | {"dag_id": "fails"}).body["run_id"]
        wait_for(lambda: len(pids(tmp_path)) == 2, what="both tasks")
    (tmp_path / "go").touch()
    for pid in pids(tmp_path):
        wait_for(lambda pid=pid: not alive(pid), what="the end of a task")  # type: ignore[misc]
    with sandbox.node() as node:
        runs = [node.finished(good), node.finished(bad)]

    assert [(run["status"], run["tasks"][0]["exit_code"], run["tasks"][0]["attempts"]) for run in runs] == [
        ("completed", 0, 1),
        ("failed", 7, 1),
    ]
    assert runs[0]["tasks"][0]["outputs"] == {"said": "all"}
    assert "after\n" in sandbox.cis("dag", "logs", "fails").stdout
    assert nothing_is_kept(sandbox)


def test_a_task_goes_on_through_an_upgrade_to_a_newer_program(sandbox: Sandbox, tmp_path: Path) -> None:
    """The old node hands it over at once, though it has all the time that it takes."""
    later = running(sandbox, later_source(tmp_path))
    ended = pytest.raises(AssertionError, match="the node ended with 1")
    with ended, sandbox.node() as node:
        run_id = node.execute(lasting(tmp_path)).body["run_id"]
        (pid,) = pids(tmp_path)
        later.json("dag", "list")
        assert node.process.wait(LONG_S) == 1
    lived = alive(pid)
    with node_that_holds_it(later) as node:
        (tmp_path / "go").touch()
        run = node.finished(run_id)

    assert lived
    assert (run["status"], run["tasks"][0]["outputs"]) == ("completed", {"said": "all"})
    assert attempts(later) == [(1, "completed", 0)]
    assert pids(tmp_path) == [pid]


def test_a_cancel_ends_a_task_that_was_taken_up_again(sandbox: Sandbox, tmp_path: Path) -> None:
    run_id = interrupt(sandbox, tmp_path, "its node")
    with node_that_holds_it(sandbox) as node:
        node.call("POST", f"/api/v1/runs/{run_id}/cancel")
        run = node.finished(run_id)
        gone = not alive(pids(tmp_path)[0])

    assert run["status"] == "cancelled"
    assert attempts(sandbox) == [(1, "cancelled", -15)]
    assert gone
    assert nothing_is_kept(sandbox)


def test_a_run_that_is_cancelled_while_no_node_runs_is_ended_by_the_next_one(sandbox: Sandbox, tmp_path: Path) -> None:
    interrupt(sandbox, tmp_path, "a stop of its node")
    (pid,) = pids(tmp_path)
    cancelled = sandbox.json("dag", "cancel", "lasts")
    lived = alive(pid)
    with sandbox.node():
        wait_for(lambda: not alive(pid), timeout_s=LONG_S, what="the end of the task")
        wait_for(lambda: nothing_is_kept(sandbox), timeout_s=LONG_S, what="nothing to be kept")

    assert cancelled["status"] == "cancelled"
    assert lived
    assert attempts(sandbox)[0][1] == "lost"


def test_a_time_limit_ends_a_task_while_no_worker_lives(sandbox: Sandbox, tmp_path: Path) -> None:
    run_id = interrupt(sandbox, tmp_path, "both", timeout="3s")
    (pid,) = pids(tmp_path)
    wait_for(lambda: not alive(pid), timeout_s=LONG_S, what="the end of the task")
    with sandbox.node() as node:
        run = node.finished(run_id)

    assert (run["status"], run["tasks"][0]["error"]) == ("failed", "timed out after 3 s")
    assert len(attempts(sandbox)) == 1


def test_status_and_doctor_show_what_goes_on_while_no_node_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    run_id = interrupt(sandbox, tmp_path, "a stop of its node")
    task = sandbox.json("dag", "status", "lasts")["runs"][0]["tasks"][0]
    doctor = sandbox.cis("doctor").stdout
    with sandbox.node() as node:
        (tmp_path / "go").touch()
        node.finished(run_id)

    assert task["status"] == "running"
    assert "goes on without a worker" in task["waiting"]["message"]
    assert f"attempt 1 of task t, run {run_id}, process {pids(tmp_path)[0]} goes on without a worker" in doctor
    assert "goes on without a worker" not in sandbox.cis("doctor").stdout


def test_what_is_not_adopted_is_ended_and_tried_again_beside_it(sandbox: Sandbox, tmp_path: Path) -> None:
    document = lasting(tmp_path)
    document["tasks"].append(
        {"id": "r", "command": f"echo $$ >> {tmp_path}/others; test $CIS_ATTEMPT = 2 || exec sleep 600"}
    )
    others = tmp_path / "others"
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        pids(tmp_path)
        other = int(wait_for(lambda: others.read_text().strip() if others.exists() else "", what="the other task"))
        kill(node)
    with sandbox.node() as node:
        wait_for(lambda: len(others.read_text().split()) == 2, timeout_s=LONG_S, what="its second attempt")
        gone = not alive(other)
        (tmp_path / "go").touch()
        run = node.finished(run_id)

    assert gone
    assert run["status"] == "completed"
    assert [task["attempts"] for task in run["tasks"]] == [1, 2]


def test_a_task_whose_leading_process_is_killed_is_ended_lost_and_tried_again(sandbox: Sandbox, tmp_path: Path) -> None:
    with sandbox.node() as node:
        run_id = node.execute(lasting(tmp_path)).body["run_id"]
        (pid,) = pids(tmp_path)
        os.kill(guardian(sandbox), signal.SIGKILL)
        wait_for(lambda: len(pids(tmp_path)) == 2, timeout_s=LONG_S, what="its second attempt")
        gone = not alive(pid)
        (tmp_path / "go").touch()
        run = node.finished(run_id)

    assert gone
    assert run["status"] == "completed"
    assert [attempt[:2] for attempt in attempts(sandbox)] == [(1, "lost"), (2, "completed")]
    assert not (tmp_path / "overlap").exists()


def test_a_task_that_a_service_manager_ends_with_all_other_processes_is_lost_and_tried_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node() as node:
        run_id = node.execute(lasting(tmp_path)).body["run_id"]
        (pid,) = pids(tmp_path)
        for each in (node.process.pid, worker(sandbox), guardian(sandbox), pid):
            os.kill(each or 0, signal.SIGTERM)
        assert node.process.wait(LONG_S) == 0
    wait_for(lambda: not alive(pid), what="the end of the task")
    with sandbox.node() as node:
        (tmp_path / "go").touch()
        run = node.finished(run_id)

    assert run["status"] == "completed"
    assert [attempt[:2] for attempt in attempts(sandbox)] == [(1, "lost"), (2, "completed")]


def test_secrets_are_masked_in_the_log_and_the_outputs_of_a_task_that_was_taken_up_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (sandbox.home / "cis.toml").write_text('[worker]\ngrace = "1s"\n[secrets]\nTOKEN = "hunter-two-42"\n')
    (sandbox.home / "cis.toml").chmod(0o600)
    document = lasting(tmp_path, then='echo "it is $TOKEN"; echo "it=is $TOKEN" >> $CIS_OUTPUT', secrets=["TOKEN"])
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        pids(tmp_path)
        kill(node)
    with node_that_holds_it(sandbox) as node:
        (tmp_path / "go").touch()
        run = node.finished(run_id)

    assert run["tasks"][0]["outputs"] == {"it": "is ***"}
    assert "it is ***\n" in sandbox.cis("dag", "logs", "lasts").stdout
    kept = [path for path in sandbox.home.rglob("*") if path.is_file() and path.name != "cis.toml"]
    assert [path for path in kept if b"hunter-two-42" in path.read_bytes()] == []
    assert nothing_is_kept(sandbox)


def test_the_log_is_followed_through_a_restart_of_the_node(sandbox: Sandbox, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with sandbox.node() as node:
        run_id = node.execute(lasting(tmp_path)).body["run_id"]
        pids(tmp_path)
        with said.open("wb") as file:
            follower = subprocess.Popen(
                [sys.executable, "-m", "cis", "dag", "logs", "lasts", "--follow"], env=dict(sandbox.env), stdout=file
            )
        wait_for(lambda: b"before\n" in said.read_bytes(), what="the first line")
        kill(node)
    try:
        with node_that_holds_it(sandbox) as node:
            (tmp_path / "go").touch()
            node.finished(run_id)
            assert follower.wait(LONG_S) == 0
    finally:
        follower.kill()
        follower.wait()

    assert b"after\n" in said.read_bytes()


@pytest.mark.parametrize("way", ["removed", "replaced"])
def test_a_task_of_a_home_that_is_gone_is_ended(sandbox: Sandbox, tmp_path: Path, way: str) -> None:
    interrupt(sandbox, tmp_path, "a stop of its node")
    (pid,) = pids(tmp_path)
    moved = sandbox.home.with_name("moved")
    sandbox.home.rename(moved)
    if way == "replaced":
        subprocess.run(["cp", "-a", moved, sandbox.home], check=True)
    wait_for(lambda: not alive(pid), timeout_s=LONG_S, what="the end of the task")


def test_in_a_home_that_was_moved_an_end_is_found_and_what_ran_on_is_ended_and_tried_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """What runs has the old place in its environment, and would write to where nobody looks."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with sandbox.node() as node:
        ends = node.execute(lasting(first)).body["run_id"]
        runs_on = node.execute(lasting(second) | {"dag_id": "goes-on"}).body["run_id"]
        (ended,), (going_on,) = pids(first), pids(second)
    (first / "go").touch()
    wait_for(lambda: not alive(ended), what="the end of a task")
    folders = AttemptFolders(Home(sandbox.home).attempts)
    wait_for(lambda: folders.ended(f"{ends}.0.1"), what="what is kept of its end")
    new = sandbox.at(tmp_path / "new")
    sandbox.home.rename(new.home)
    refused = new.cis("node", "start", "--port", "0")
    new.json("init", "--moved")
    gone = not alive(going_on)
    (second / "go").touch()
    with new.node() as node:
        runs = [node.finished(run_id) for run_id in (ends, runs_on)]

    assert refused.returncode == 4
    assert gone
    assert [(run["status"], run["tasks"][0]["attempts"]) for run in runs] == [("completed", 1), ("completed", 2)]
    assert [run["tasks"][0]["outputs"] for run in runs] == [{"said": "all"}] * 2
    assert not (second / "overlap").exists()
    assert AttemptFolders(Home(new.home).attempts).handles() == []


def test_a_home_that_is_a_copy_takes_up_and_ends_nothing_that_goes_on_in_the_original(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    run_id = interrupt(sandbox, tmp_path, "a stop of its node")
    (pid,) = pids(tmp_path)
    copy = sandbox.at(tmp_path / "copy")
    subprocess.run(["cp", "-a", sandbox.home, copy.home], check=True)
    refused = copy.cis("node", "start", "--port", "0")
    copy.json("init", "--copied")
    kept = AttemptFolders(Home(copy.home).attempts).handles()
    copy.json("dag", "run", "-", stdin='{"dag_id": "fresh", "tasks": [{"id": "t", "command": "true"}]}')
    goes_on = alive(pid)
    (tmp_path / "go").touch()
    with sandbox.node() as node:
        run = node.finished(run_id)

    assert refused.returncode == 4
    assert kept == []
    assert goes_on
    assert (run["status"], run["tasks"][0]["attempts"]) == ("completed", 1)
    assert run["tasks"][0]["outputs"] == {"said": "all"}


def test_what_a_task_may_leave_running_outlives_it_also_when_it_was_taken_up_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    document = lasting(tmp_path, then=f"sleep 600 & echo $! > {tmp_path}/left; exit 0", leave=True)
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        pids(tmp_path)
        kill(node)
    with node_that_holds_it(sandbox) as node:
        (tmp_path / "go").touch()
        run = node.finished(run_id)
    left = int((tmp_path / "left").read_text())
    try:
        assert run["status"] == "completed"
        assert alive(left)
        assert [one["pid"] for one in sandbox.json("dag", "status", "lasts")["runs"][0]["left"]] == [left]
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_run_without_a_node_that_is_killed_leaves_its_task_to_the_next_node(sandbox: Sandbox, tmp_path: Path) -> None:
    document = write_dag(tmp_path, lasting(tmp_path))
    command = subprocess.Popen([sys.executable, "-m", "cis", "dag", "run", document], env=dict(sandbox.env))
    pids(tmp_path)
    command.kill()
    command.wait()
    with node_that_holds_it(sandbox) as node:
        (tmp_path / "go").touch()
        (run_id,) = sandbox.rows("SELECT run_id FROM dag_runs")[0]
        run = node.finished(run_id)

    assert run["status"] == "completed"
    assert attempts(sandbox) == [(1, "completed", 0)]


def test_an_end_that_only_a_newer_program_can_read_is_waited_for_and_said(sandbox: Sandbox, tmp_path: Path) -> None:
    run_id = interrupt(sandbox, tmp_path, "a stop of its node")
    folders = AttemptFolders(Home(sandbox.home).attempts)
    (handle,) = folders.handles()
    (tmp_path / "go").touch()
    wait_for(lambda: not folders.lives(handle), what="the end of the attempt")
    file = Path(folders.path(handle)) / "ended"
    written = json.loads(file.read_text())
    file.write_text(json.dumps(written | {"version": 99}))
    with sandbox.node() as node:
        said = wait_for(lambda: node.run(run_id)["tasks"][0]["error"], timeout_s=LONG_S, what="the reason")
        before = node.run(run_id)["tasks"][0]
        file.write_text(json.dumps(written))
        run = node.finished(run_id)

    assert "written by a newer program" in said
    assert (before["status"], before["attempts"]) == ("running", 1)
    assert (run["status"], run["tasks"][0]["error"]) == ("completed", None)
    assert attempts(sandbox) == [(1, "completed", 0)]
