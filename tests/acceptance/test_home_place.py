"""A home keeps its node's id, knows where it lives, and does nothing by itself where it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.harness import NodeProcess, Sandbox, alive, write_dag
from tests.worlds.waiting import wait_for

HOLD = "until test -e {go}; do sleep 0.05; done"


def held(folder: Path, *, dag_id: str = "held") -> dict[str, object]:
    """Return a DAG whose task says who it is and waits for the file ``go``."""
    command = f"echo $$ >> {folder}/pids; {HOLD.format(go=folder / 'go')}; echo on $CIS_NODE_ID in $CIS_HOME"
    return {"dag_id": dag_id, "tasks": [{"id": "t", "command": command}]}


def started(folder: Path) -> int:
    """Wait for the first task that was started, and return its pid."""
    file = folder / "pids"
    return int(wait_for(lambda: file.read_text().split() if file.exists() else [], what="a task")[0])


def kill(node: NodeProcess) -> None:
    """Cut the node's power, and its workers' with it."""
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()


def start_and_die(sandbox: Sandbox, folder: Path) -> str:
    """Have a node take on a held run, kill it and its worker while the task runs, and return the run's id."""
    with pytest.raises(AssertionError, match="the node ended with"), sandbox.node() as node:
        run_id: str = node.execute(held(folder)).body["run_id"]
        started(folder)
        (worker,) = node.call("GET", "/api/v1/workers").body["items"]
        os.kill(worker["pid"], signal.SIGKILL)
        kill(node)
    return run_id


def test_runs_that_were_accepted_go_on_when_the_host_gets_another_name(sandbox: Sandbox, tmp_path: Path) -> None:
    """The name is taken once, and kept."""
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("another host name takes root and unshare(1)")

    def named(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = f'hostname {name}; exec "$@"'
        cis = [sys.executable, "-m", "cis", *arguments]
        return subprocess.run(
            ["unshare", "--uts", "sh", "-c", script, "sh", *cis],
            env=dict(sandbox.env), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    document = write_dag(tmp_path, held(tmp_path))
    run = subprocess.Popen(
        ["unshare", "--uts", "sh", "-c", 'hostname laptop; exec "$@"', "sh", sys.executable, "-m", "cis", "dag", "run", document],
        env=dict(sandbox.env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started(tmp_path)
    run.kill()
    run.wait()
    (tmp_path / "go").touch()
    shown = json.loads(named("desktop", "config", "show", "--json").stdout)
    with sandbox.node() as node:
        (one,) = node.call("GET", "/api/v1/runs").body["items"]
        finished = node.finished(one["run_id"])

    assert shown["node_id"] == "laptop"
    assert finished["status"] == "completed"
    assert finished["owner_node"] == "laptop"


def test_a_flag_or_variable_against_the_id_that_was_kept_is_refused_with_the_way_out(sandbox: Sandbox) -> None:
    named = sandbox.at(sandbox.home, CIS_NODE_ID="first")
    named.json("dag", "run", "-", stdin='{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}')
    flag = sandbox.cis("node", "start", "--port", "0", "--node-id", "second")
    variable = sandbox.at(sandbox.home, CIS_NODE_ID="second").cis("config", "show")
    kept = sandbox.json("config", "show")["node_id"]
    same = named.json("init", "--node-id", "first")["node_id"]
    (sandbox.home / "cis.toml").write_text('[node]\nid = "second"\n')

    for refused, place in ((flag, "--node-id"), (variable, "CIS_NODE_ID")):
        assert refused.returncode == 4
        assert place in refused.stderr
        assert "cis.toml" in refused.stderr
    assert (kept, same) == ("first", "first")
    assert sandbox.json("config", "show")["node_id"] == "second"


ACTING = (
    ("node", "start", "--port", "0"),
    ("worker", "run", "--id", "worker-global", "--scope", "global"),
    ("dag", "run", "DAG"),
    ("dag", "save", "DAG"),
    ("dag", "cancel", "held"),
    ("dag", "rerun", "held"),
    ("token", "rotate"),
    ("token", "create", "x"),
    ("node", "rotate-key"),
    ("db", "prune"),
    ("init",),
)


def test_a_copy_of_a_home_does_nothing_until_it_is_told_that_it_is_one(sandbox: Sandbox, tmp_path: Path) -> None:
    """Then it is a node of its own, and what the original has to do stays the original's."""
    copy = sandbox.at(tmp_path / "copy")
    document = write_dag(tmp_path, held(tmp_path))
    fresh = write_dag(
        tmp_path, {"dag_id": "fresh", "tasks": [{"id": "t", "command": "echo $CIS_NODE_ID"}]}, name="f.json"
    )
    original = sandbox.json("init")
    with sandbox.node() as node:
        run_id = node.execute(held(tmp_path)).body["run_id"]
        pid = started(tmp_path)
        shutil.copytree(sandbox.home, copy.home, ignore=shutil.ignore_patterns("*.wake"))
        token = (copy.home / "token").read_bytes()
        refused = [copy.cis(*(document if word == "DAG" else word for word in command)) for command in ACTING]
        listed = copy.json("dag", "list")
        said = copy.json("doctor", expect=1)
        unchanged = (copy.home / "token").read_bytes()
        moved = copy.cis("init", "--moved")
        copied = copy.json("init", "--copied")
        again = copy.json("init", "--copied")
        ran = copy.json("dag", "run", fresh)
        closed = copy.json("dag", "status", "held")["runs"][0]
        assert alive(pid)
        (tmp_path / "go").touch()
        finished = node.finished(run_id)

    for done in refused:
        assert done.returncode == 4, done
        assert "cis init --moved" in done.stderr
        assert "cis init --copied" in done.stderr
    assert [one["status"] for one in listed] == ["running"]
    assert any("cis init --copied" in finding["mend"] for finding in said["findings"])
    assert unchanged == token
    assert moved.returncode == 4  # the original is still there
    assert copied["node_id"] == again["node_id"] == ran["node_id"] != original["node_id"]
    assert copied["public_key"] == again["public_key"] != original["public_key"]
    assert closed["status"] == "cancelled"
    assert f"copy of node {original['node_id']!r}" in closed["error"]
    assert [task["status"] for task in closed["tasks"]] == ["cancelled"]
    assert ran["status"] == "completed"
    assert (finished["status"], finished["tasks"][0]["attempts"]) == ("completed", 1)
    assert (tmp_path / "pids").read_text().split() == [str(pid)]


def test_a_backup_that_is_restored_in_another_home_does_nothing_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    other = sandbox.at(tmp_path / "other")
    document = write_dag(tmp_path, {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]})
    sandbox.json("dag", "run", document)
    sandbox.json("db", "backup", str(tmp_path / "backup"))
    other.json("db", "restore", str(tmp_path / "backup"))
    refused = other.cis("dag", "run", document)
    listed = other.json("dag", "list")
    shutil.rmtree(sandbox.home)
    moved = other.json("init", "--moved")

    assert refused.returncode == 4
    assert [one["status"] for one in listed] == ["completed"]
    assert other.json("dag", "run", document)["node_id"] == moved["node_id"]


def test_a_home_that_was_moved_goes_on_and_ends_first_what_its_tasks_left_at_the_old_place(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    run_id = start_and_die(sandbox, tmp_path)
    left = started(tmp_path)
    assert alive(left)
    new = sandbox.at(tmp_path / "new")
    sandbox.home.rename(new.home)
    refused = new.cis("node", "start", "--port", "0")
    assert alive(left)
    new.json("init", "--moved")
    gone = not alive(left)
    (tmp_path / "go").touch()
    with new.node() as node:
        finished = node.finished(run_id)
        logs = new.json("dag", "logs", "held")

    assert refused.returncode == 4
    assert gone
    assert (finished["status"], finished["tasks"][0]["attempts"]) == ("completed", 2)
    assert f"in {new.home}" in logs[-1]["output"]
    assert new.json("init", "--moved")["node_id"] == finished["owner_node"]


def test_a_container_that_is_made_anew_over_the_same_volume_simply_goes_on(sandbox: Sandbox) -> None:
    """Another host name, perhaps another host, and no machine of its own: the path alone counts."""
    first = sandbox.at(sandbox.home, container="podman")
    document = '{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}'
    first.json("dag", "run", "-", stdin=document)

    assert first.json("dag", "run", "-", stdin=document)["status"] == "completed"
    assert sandbox.rows("SELECT machine FROM home") == [("",)]


@pytest.mark.parametrize("place", ["--node-id", "CIS_NODE_ID"])
def test_a_copy_gets_the_id_that_is_asked_for_and_none_that_is_no_id(
    sandbox: Sandbox, tmp_path: Path, place: str
) -> None:
    """What cannot be an id changes nothing: the copy is still one, and can be told again."""

    def copied(node_id: str) -> subprocess.CompletedProcess[str]:
        if place == "CIS_NODE_ID":
            return sandbox.at(tmp_path / "copy", CIS_NODE_ID=node_id).cis("init", "--copied", "--json")
        return sandbox.at(tmp_path / "copy").cis("init", "--copied", "--node-id", node_id, "--json")

    original = sandbox.json("init")
    shutil.copytree(sandbox.home, tmp_path / "copy", ignore=shutil.ignore_patterns("*.wake"))
    refused = copied("../two")
    settings = (tmp_path / "copy" / "cis.toml").read_text()
    done = copied("two")

    assert refused.returncode == 2
    assert f"{place} '../two' contains '..'" in refused.stderr
    assert settings == (sandbox.home / "cis.toml").read_text()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["node_id"] == "two"
    assert json.loads(done.stdout)["public_key"] != original["public_key"]


def test_a_moved_home_takes_no_other_id(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("init")
    moved = sandbox.at(tmp_path / "moved")
    shutil.move(sandbox.home, moved.home)
    refused = moved.cis("init", "--moved", "--node-id", "two")

    assert refused.returncode == 2
    assert "leave --node-id out" in refused.stderr
    assert moved.cis("token", "create", "one").returncode == 4  # it was not taken for moved


def test_doctor_looks_at_everything_also_under_an_id_that_is_not_the_homes(sandbox: Sandbox) -> None:
    sandbox.json("init", "--node-id", "one")
    said = sandbox.at(sandbox.home, CIS_NODE_ID="two").json("doctor", expect=1)

    (wrong,) = [finding for finding in said["findings"] if finding["fault"]]
    assert "this home is node 'one'" in wrong["fault"]
    assert wrong["mend"] == "leave CIS_NODE_ID out"
    assert any(finding["what"].startswith("database") for finding in said["findings"])
