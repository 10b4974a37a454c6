"""Handlers: what runs when the rest is over, through the real command and node, on both stores."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from tests.worlds.cluster import befriend, make_nodes, running
from tests.worlds.cluster import ended as ended_there
from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

TELL = {"command": ["sh", "-c", 'echo "$CIS_RUN_STATUS|$CIS_FAILED_TASKS|$CIS_ERROR|$X" > "$OUT"']}


def telling(out: Path, **fields: Any) -> dict[str, Any]:
    """Return a handler that writes what it is told into a file."""
    return {**TELL, "env": {"OUT": str(out), "X": "x"}, **fields}


def latest(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the latest run of a DAG, as ``status`` shows it."""
    run: dict[str, Any] = sandbox.json("dag", "status", dag_id)["runs"][0]
    return run


def ended(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the latest run of a DAG once it is over."""
    wait_for(lambda: latest(sandbox, dag_id)["finished_at"] is not None, what=f"the end of {dag_id}", timeout_s=60.0)
    return latest(sandbox, dag_id)


def states(run: dict[str, Any]) -> dict[str, str]:
    """Return the states of a run's tasks."""
    return {task["id"]: task["status"] for task in run["tasks"]}


def runs_now(sandbox: Sandbox, dag_id: str, task_id: str) -> bool:
    """Whether a task of the latest run has a process."""
    return states(latest(sandbox, dag_id)).get(task_id) == "running"


def test_the_handler_of_the_verdict_runs_and_then_exit_and_both_change_nothing_of_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    handlers = {
        "success": {"command": "exit 7"},
        "failure": telling(
            tmp_path / "failure", env={"OUT": str(tmp_path / "failure"), "X": "${tasks.b.outputs.none}"}
        ),
        "exit": telling(tmp_path / "exit", env={"OUT": str(tmp_path / "exit"), "X": "${tasks.a.status}"}),
    }
    failing = [{"id": "a", "command": "exit 3"}, {"id": "b", "command": "true", "depends_on": "a"}]
    fine = [{"id": "a", "command": "true"}, {"id": "b", "command": "true", "depends_on": "a"}]
    bad = write_dag(tmp_path, {"dag_id": "bad", "tasks": failing, "handlers": handlers})
    good = write_dag(tmp_path, {"dag_id": "good", "tasks": fine, "handlers": handlers}, name="good.json")  # fmt: skip

    assert sandbox.cis("dag", "run", bad, "--wait").returncode == 1
    told = [(tmp_path / name).read_text() for name in ("failure", "exit")]
    (tmp_path / "failure").unlink()
    assert sandbox.cis("dag", "run", good, "--wait").returncode == 0

    assert told == ["failed|a|task a: exit status 3|\n", "failed|a|task a: exit status 3|failed\n"]
    assert states(latest(sandbox, "bad")) == {
        "a": "failed", "b": "skipped", "handlers.failure": "completed", "handlers.exit": "completed"
    }  # fmt: skip
    run = latest(sandbox, "good")
    assert (run["status"], run["error"]) == ("completed", None)
    assert states(run) == {
        "a": "completed",
        "b": "completed",
        "handlers.success": "failed",
        "handlers.exit": "completed",
    }
    assert (tmp_path / "exit").read_text() == "completed|||completed\n"
    assert not (tmp_path / "failure").exists()
    validated = sandbox.json("dag", "validate", good)
    assert validated["handlers"] == ["success", "failure", "exit"]


def test_they_run_after_a_cancel_and_after_the_time_limit_of_the_run_and_a_second_cancel_ends_them(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sleeps = [{"id": "a", "command": ["sleep", "600"]}]
    waits = {"cancel": {"command": ["sleep", "600"]}, "exit": telling(tmp_path / "never")}
    stops = {"cancel": telling(tmp_path / "cancel"), "exit": telling(tmp_path / "exit")}
    late = {"failure": telling(tmp_path / "late")}
    with sandbox.node():
        for dag_id, handlers, limit in (("twice", waits, 600), ("once", stops, 600), ("late", late, 1)):
            path = write_dag(tmp_path, {"dag_id": dag_id, "tasks": sleeps, "handlers": handlers, "timeout": limit})
            assert sandbox.cis("dag", "run", path).returncode == 0
        for dag_id in ("twice", "once"):
            wait_for(partial(runs_now, sandbox, dag_id, "a"), what="the task", timeout_s=30)
            assert sandbox.cis("dag", "cancel", dag_id).returncode == 0
        wait_for(lambda: runs_now(sandbox, "twice", "handlers.cancel"), what="the handler", timeout_s=30)
        held = latest(sandbox, "twice")
        assert sandbox.cis("dag", "cancel", "twice").returncode == 0
        twice, once, timed_out = (ended(sandbox, dag_id) for dag_id in ("twice", "once", "late"))

    assert (held["status"], held["finished_at"]) == ("running", None)
    assert (twice["status"], states(twice)) == (
        "cancelled", {"a": "cancelled", "handlers.cancel": "cancelled", "handlers.exit": "cancelled"}
    )  # fmt: skip
    assert not (tmp_path / "never").exists()
    assert (once["status"], states(once)) == (
        "cancelled", {"a": "cancelled", "handlers.cancel": "completed", "handlers.exit": "completed"}
    )  # fmt: skip
    assert [(tmp_path / name).read_text() for name in ("cancel", "exit")] == ["cancelled|||x\n"] * 2
    assert (timed_out["status"], timed_out["error"]) == ("failed", "timed out after 1 s")
    assert (tmp_path / "late").read_text() == "failed||timed out after 1 s|x\n"


def test_one_that_waits_or_is_paused_has_its_handlers_when_it_is_cancelled_and_one_that_never_began_has_none(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    handlers = {"cancel": telling(tmp_path / "cancel")}
    fails = [{"id": "a", "command": "false", "max_retries": 5, "retry_delay": "1h"}]
    path = write_dag(tmp_path, {"dag_id": "waits", "tasks": fails, "handlers": handlers})
    never = write_dag(tmp_path, {"dag_id": "never", "tasks": fails, "handlers": {"exit": telling(tmp_path / "exit")}}, name="never.json")  # fmt: skip
    busy = write_dag(
        tmp_path, {"dag_id": "busy", "tasks": [{"id": "a", "command": ["sleep", "600"]}]}, name="busy.json"
    )
    with sandbox.node(CIS_SLOTS="1"):
        assert sandbox.cis("dag", "run", path).returncode == 0
        wait_for(lambda: latest(sandbox, "waits")["tasks"][0]["attempts"] == 1, what="an attempt", timeout_s=30)
        wait_for(lambda: latest(sandbox, "waits")["tasks"][0]["status"] == "pending", what="its end", timeout_s=30)
        assert sandbox.cis("dag", "pause", "waits").returncode == 0
        assert sandbox.cis("dag", "cancel", "waits").returncode == 0
        run = ended(sandbox, "waits")
        assert sandbox.cis("dag", "run", busy).returncode == 0
        wait_for(lambda: runs_now(sandbox, "busy", "a"), what="the task that has the slot", timeout_s=30)
        assert sandbox.cis("dag", "run", never).returncode == 0
        assert sandbox.cis("dag", "cancel", "never").returncode == 0
        gone = ended(sandbox, "never")
        assert sandbox.cis("dag", "cancel", "busy").returncode == 0

    assert (gone["status"], states(gone), gone["started_at"]) == ("cancelled", {"a": "cancelled"}, None)
    assert (run["status"], states(run)) == ("cancelled", {"a": "cancelled", "handlers.cancel": "completed"})
    assert (tmp_path / "cancel").read_text() == "cancelled|||x\n"


def test_a_worker_that_dies_is_no_end_of_them_the_next_goes_on_by_the_verdict_that_was_settled(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gate, count = tmp_path / "gate", tmp_path / "count"
    waits = {"command": ["sh", "-c", f"echo $CIS_RUN_STATUS >> {count}; until test -e {gate}; do sleep 0.05; done"]}
    document = {
        "dag_id": "dies",
        "timeout": 2,
        "tasks": [{"id": "a", "command": "false"}],
        "handlers": {"failure": waits, "exit": telling(tmp_path / "exit")},
    }
    with sandbox.node():
        assert sandbox.cis("dag", "run", write_dag(tmp_path, document)).returncode == 0
        wait_for(count.exists, what="the handler", timeout_s=30)
        (worker,) = sandbox.json("dag", "worker", "list")
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: count.read_text().count("failed") == 2, what="its second attempt", timeout_s=60)
        gate.touch()
        run = ended(sandbox, "dies")

    assert (run["status"], run["error"]) == ("failed", None)
    assert states(run) == {"a": "failed", "handlers.failure": "completed", "handlers.exit": "completed"}
    assert {task["id"]: task["attempts"] for task in run["tasks"]}["handlers.failure"] == 2
    assert (tmp_path / "exit").read_text() == "failed|a|task a: exit status 1|x\n"


def test_what_is_wrong_with_handlers_is_told_with_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    document = {
        "dag_id": "wrong",
        "tasks": [{"id": "handlers.exit", "command": "true"}, {"id": "b", "command": "true", "depends_on": "handlers.exit"}],
        "handlers": {
            "failed": {"command": "true"},
            "exit": {"command": "true", "depends_on": ["b"], "id": "c"},
            "success": {"command": "echo ${tasks.b.outputs.x}"},
            "failure": {"command": ["echo", "${tasks.typo.outputs.x}"]},
            "cancel": {"env": {"A": "1"}},
        },
    }  # fmt: skip
    answer = sandbox.json("dag", "validate", write_dag(tmp_path, document), expect=2)
    faults = {fault["place"]: fault["message"] for fault in answer["error"]["faults"]}

    assert set(faults) == {
        "tasks[0].id", "handlers.failed", "handlers.exit.depends_on", "handlers.exit.id", "handlers.success.command",
        "handlers.failure.command[1]", "handlers.cancel",
    }  # fmt: skip
    assert "did you mean 'failure'?" in faults["handlers.failed"]
    assert "runs when all else is over" in faults["handlers.exit.depends_on"]


def test_they_travel_with_their_run_and_are_told_to_its_origin(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    document = {
        "dag_id": "far",
        "target_node": "node-2",
        "tasks": [{"id": "a", "command": "false"}],
        "handlers": {"failure": {"command": "echo told; echo said=far >> $CIS_OUTPUT"}, "exit": {"command": "exit 3"}},
    }
    with running(one, two):
        run = ended_there(one, one.api.execute(document).body["run_id"])
        (log, *_) = one.sandbox.json("dag", "logs", "far", "--task", "handlers.failure")

    assert (run["status"], states(run)) == (
        "failed", {"a": "failed", "handlers.failure": "completed", "handlers.exit": "failed"}
    )  # fmt: skip
    assert json.dumps(run["tasks"][1]["outputs"]) == '{"said": "far"}'
    assert log["output"] == "told\n"
