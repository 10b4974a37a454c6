"""Two versions of this program over one home: upgrade under a running node, downgrade, both at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cis.store.sqlite.migrate import NEWEST
from tests.worlds.cluster import befriend, make_nodes
from tests.worlds.cluster import running as at_work
from tests.worlds.harness import Sandbox, alive
from tests.worlds.versions import BEFORE_ADOPT, SCHEMA_6, earlier_source, later_source, running
from tests.worlds.waiting import wait_for


def held(folder: Path) -> dict[str, Any]:
    """Return a DAG whose first task waits for the file ``go``, and whose second counts what ran."""
    hold = f"echo $$ > {folder}/pid; until test -e {folder}/go; do sleep 0.05; done; echo a >> {folder}/ran"
    return {
        "dag_id": "held",
        "tasks": [
            {"id": "a", "command": hold},
            {"id": "b", "command": f"echo b >> {folder}/ran", "depends_on": ["a"]},
        ],
    }


def started(folder: Path) -> int:
    """Wait for the first task, and return its pid."""
    file = folder / "pid"
    return int(wait_for(lambda: file.read_text().strip() if file.exists() else "", what="the first task"))


def schema(sandbox: Sandbox) -> tuple[int, list[tuple[Any, ...]]]:
    """Return the number of the schema, and all that it consists of."""
    ((version,),) = sandbox.rows("PRAGMA user_version")
    return version, sandbox.rows("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")


def worker_log(sandbox: Sandbox) -> str:
    """Return what the workers of a home have said."""
    return "".join(file.read_text() for file in (sandbox.home / "logs" / "workers").glob("*.log"))


def test_a_home_is_upgraded_under_a_running_node_of_an_earlier_commit(sandbox: Sandbox, tmp_path: Path) -> None:
    """That node writes its own number over the newer one at each look at /ready; the next start is not misled."""
    earlier = running(sandbox, earlier_source(SCHEMA_6, tmp_path))
    with earlier.node() as node:
        run_id = node.execute(held(tmp_path)).body["run_id"]
        started(tmp_path)
        before = schema(sandbox)[0]
        sandbox.json("doctor", expect=1)
        sandbox.json("db", "check")
        sandbox.json("db", "backup", str(tmp_path / "backup"))
        looked_at = schema(sandbox)[0]
        sandbox.json("dag", "list")
        migrated = schema(sandbox)[0]
        node.call("GET", "/ready", token=None)
        overwritten = schema(sandbox)[0]
        (tmp_path / "go").touch()
        finished = node.finished(run_id)
    with sandbox.node() as node:
        again = node.finished(node.execute(held(tmp_path)).body["run_id"])

    assert (before, looked_at, migrated, overwritten) == (6, 6, NEWEST, 6)
    assert finished["status"] == again["status"] == "completed"
    assert [task["attempts"] for task in finished["tasks"]] == [1, 1]
    assert schema(sandbox)[0] == NEWEST
    assert sandbox.json("db", "check")["ok"]


def test_a_node_that_finds_a_newer_schema_accepts_nothing_more_and_ends_when_what_it_runs_has_ended(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """What runs has all the time that it takes; the newer version then does the rest, and nothing twice."""
    later = running(sandbox, later_source(tmp_path))
    document = held(tmp_path)
    ended = pytest.raises(AssertionError, match="the node ended with 1")
    with ended, sandbox.node("--port", "0", CIS_GRACE="100ms") as node:
        run_id = node.execute(document).body["run_id"]
        pid = started(tmp_path)
        later.json("dag", "list")
        wait_for(lambda: node.call("GET", "/ready", token=None).status == 503, what="/ready to notice it")
        ready = node.call("GET", "/ready", token=None)
        refused = node.execute(document)
        said = sandbox.json("doctor", expect=1)
        seen = later.json("doctor", expect=1)
        number = schema(sandbox)[0]
        lived = alive(pid)
        wait_for(lambda: "nothing more is started" in worker_log(sandbox), what="the worker to notice it")
        (tmp_path / "go").touch()
        assert node.process.wait(30) == 1
    left = later.json("dag", "status", "held")["runs"][0]
    with later.node() as node:
        finished = node.finished(run_id)

    assert "schema" in ready.body["detail"]
    assert (refused.status, refused.body["code"]) == (503, "store.newer")
    assert any("newest cis-dag" in finding["mend"] for finding in said["findings"])
    assert any("earlier version" in finding["fault"] for finding in seen["findings"])
    assert number == NEWEST + 1
    assert lived
    assert [task["status"] for task in left["tasks"]] == ["completed", "pending"]
    assert finished["status"] == "completed"
    assert [task["attempts"] for task in finished["tasks"]] == [1, 1]
    assert (tmp_path / "ran").read_text().split() == ["a", "b"]
    assert "accepts nothing more" in sandbox.node_log()


def test_a_run_without_a_node_ends_with_the_reason_when_a_newer_version_takes_over(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    later = running(sandbox, later_source(tmp_path))
    document = tmp_path / "held.json"
    document.write_text(json.dumps(held(tmp_path)))
    run = subprocess.Popen(
        [sys.executable, "-m", "cis", "dag", "run", str(document)],
        env=dict(sandbox.env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started(tmp_path)
    later.json("dag", "list")
    wait_for(lambda: "nothing more is started" in worker_log(sandbox), what="the worker to notice it")
    (tmp_path / "go").touch()
    _, said = run.communicate(timeout=40)
    with later.node() as node:
        (one,) = node.call("GET", "/api/v1/runs").body["items"]
        finished = node.finished(one["run_id"])

    assert run.returncode == 1
    assert "install a newer cis-dag" in said
    assert finished["status"] == "completed"
    assert [task["attempts"] for task in finished["tasks"]] == [1, 1]


def test_what_only_looks_changes_nothing_of_a_newer_or_an_older_schema(sandbox: Sandbox, tmp_path: Path) -> None:
    later = running(sandbox, later_source(tmp_path))
    sandbox.json("dag", "run", "-", stdin='{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}')
    before = schema(sandbox)
    for command in (("doctor",), ("db", "check")):
        later.cis(*command)
    older = schema(sandbox)
    later.json("dag", "list")
    newer = schema(sandbox)
    refused = [sandbox.cis(*command) for command in (("doctor",), ("db", "check"), ("dag", "list"), ("node", "start"))]

    assert before == older
    assert newer[0] == NEWEST + 1
    assert schema(sandbox) == newer
    for done in refused:
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"has schema {NEWEST + 1}" in done.stdout + done.stderr


def test_an_earlier_commit_refuses_a_home_that_was_upgraded_and_this_one_goes_on_after_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A downgrade: the way back is a backup."""
    earlier = running(sandbox, earlier_source(SCHEMA_6, tmp_path))
    document = '{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}'
    earlier.json("dag", "run", "-", stdin=document)
    sandbox.json("dag", "run", "-", stdin=document)
    newer = schema(sandbox)
    refused = [
        earlier.cis(*command) for command in (("dag", "list"), ("db", "check"), ("node", "start", "--port", "0"))
    ]

    for done in refused:
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"has schema {NEWEST}" in done.stderr
    assert schema(sandbox) == newer
    assert [one["status"] for one in sandbox.json("dag", "list")] == ["completed", "completed"]
    assert sandbox.json("dag", "run", "-", stdin=document)["status"] == "completed"


def test_two_versions_that_make_a_home_at_once_leave_the_newer_schema_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    later = running(sandbox, later_source(tmp_path))
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "cis", "dag", "run", "-"],
            env=dict(one.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for one in (sandbox, later) * 3
    ]  # fmt: skip
    said = [racer.communicate(b'{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}', 90) for racer in racers]
    listed = later.json("dag", "list")

    assert all(racer.returncode in (0, 1) for racer in racers)
    assert not any(b"Traceback" in error for _, error in said)
    assert schema(sandbox)[0] == NEWEST + 1
    assert later.json("db", "check")["ok"]
    with later.node() as node:
        assert {node.finished(one["run_id"])["status"] for one in listed} == {"completed"}


def test_a_node_of_before_refuses_a_dag_whose_task_is_to_be_adopted_and_says_why(tmp_path: Path) -> None:
    source = earlier_source(BEFORE_ADOPT, tmp_path)
    here, there = make_nodes(tmp_path, 2, sources={"node-2": source})
    befriend(here, there)
    with at_work(here, there):
        document = {
            "dag_id": "far",
            "target_node": "node-2",
            "tasks": [{"id": "t", "command": "true", "on_lost": "adopt"}],
        }
        run_id = here.api.execute(document).body["run_id"]
        refused = here.api.finished(run_id)
        plain = here.api.execute({"dag_id": "far", "target_node": "node-2", "tasks": [{"id": "t", "command": "true"}]})
        done = here.api.finished(plain.body["run_id"])
        runs = there.sandbox.rows("SELECT run_id FROM dag_runs")

    assert refused["status"] == "failed"
    assert "adopt" in refused["error"]
    assert done["status"] == "completed"
    assert runs == [(plain.body["run_id"],)]
