"""What exit statuses mean, through the real command and over HTTP, on both stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.worlds.harness import Sandbox, write_dag


def shown(sandbox: Sandbox, dag_id: str = "codes") -> dict[str, Any]:
    """Return the tasks of the latest run as ``status`` shows them, by their ids."""
    return {task["id"]: task for task in sandbox.json("dag", "status", dag_id)["runs"][0]["tasks"]}


def test_a_run_in_which_only_allowed_failures_and_skips_happened_completes_and_shows_them(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks = [
        {"id": "sync", "command": "exit 24", "success_codes": [0, 24]},
        {"id": "lint", "command": "echo bad >&2; exit 3", "allow_failure": True},
        {"id": "look", "command": "exit 2", "allow_failure": {"exit_codes": [2]}},
        {"id": "after", "command": "true", "depends_on": ["sync", "lint", "look"]},
        {"id": "changed", "command": "echo n=1 > $CIS_OUTPUT; exit 99", "skip_codes": [99]},
        {"id": "build", "command": "false", "depends_on": ["changed", "after"]},
        {"id": "ship", "command": "false", "depends_on": "build"},
    ]
    done = sandbox.json("dag", "run", write_dag(tmp_path, {"dag_id": "codes", "tasks": tasks}), "--wait")
    found = shown(sandbox)

    assert (done["status"], done["error"]) == ("completed", None)
    assert {name: (task["status"], task["skip_reason"], task["skipped_because"]) for name, task in found.items()} == {
        "sync": ("completed", None, None),
        "lint": ("failed", None, None),
        "look": ("failed", None, None),
        "after": ("completed", None, None),
        "changed": ("skipped", "code", None),
        "build": ("skipped", "upstream_skipped", "changed"),
        "ship": ("skipped", "upstream_skipped", "changed"),
    }
    assert [name for name, task in found.items() if task["failure_allowed"]] == ["lint", "look"]
    assert (found["sync"]["exit_code"], found["changed"]["exit_code"], found["changed"]["outputs"]) == (24, 99, {})
    text = sandbox.cis("dag", "status", "codes").stdout
    assert "allowed to fail: exit status 3: bad" in text
    assert "skipped by its exit status" in text
    assert sandbox.cis("dag", "logs", "codes", "--failed").stdout == ""


def test_a_failure_that_is_not_allowed_fails_the_run_and_a_rerun_keeps_the_rest(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    tasks = [
        {
            "id": "slow",
            "command": f"test -e {mended} || exec sleep 60",
            "timeout": 0.2,
            "allow_failure": {"exit_codes": [1]},
        },
        {"id": "lint", "command": "exit 1", "allow_failure": {"exit_codes": [1]}},
        {"id": "none", "command": "exit 9", "skip_codes": [9]},
        {"id": "both", "command": "true", "depends_on": ["none", "slow"]},
        {
            "id": "try",
            "command": f"test -e {mended} || exit 3",
            "max_retries": 2,
            "retry_delay": 0,
            "retry_codes": [75],
        },
    ]
    done = sandbox.cis("dag", "run", write_dag(tmp_path, {"dag_id": "codes", "tasks": tasks}), "--wait", "--quiet")
    found = shown(sandbox)

    assert done.returncode == 1
    assert "==> slow: timed out" in done.stderr
    assert "==> lint" not in done.stderr
    assert (found["slow"]["status"], found["slow"]["failure_allowed"]) == ("failed", False)
    assert (found["both"]["skip_reason"], found["both"]["skipped_because"]) == ("upstream_failed", "slow")
    assert (found["try"]["status"], found["try"]["attempts"]) == ("failed", 1)

    mended.touch()
    again = sandbox.json("dag", "rerun", "codes", "--from-failed", "--wait")
    found = shown(sandbox)
    assert again["status"] == "completed"
    assert {name: task["attempts"] for name, task in found.items()} == {
        "slow": 1,
        "lint": 0,
        "none": 0,
        "both": 0,
        "try": 1,
    }
    assert (found["both"]["skip_reason"], found["lint"]["failure_allowed"]) == ("upstream_skipped", True)


def test_codes_that_mean_two_things_are_refused_before_anything_runs(sandbox: Sandbox, tmp_path: Path) -> None:
    task = {"id": "a", "command": "true", "success_codes": [0, 9], "skip_codes": [9]}
    done = sandbox.cis("dag", "validate", write_dag(tmp_path, {"dag_id": "codes", "tasks": [task]}))

    assert done.returncode == 2
    assert "tasks[0].skip_codes" in done.stderr
    assert "holds 9, and so does success_codes" in done.stderr
