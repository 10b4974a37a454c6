"""What ``validate`` warns of, through the real command and over HTTP: the same, and nothing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.harness import Sandbox, write_dag

DOUBTFUL: dict[str, Any] = {
    "dag_id": "doubtful",
    "env": {"HERE": "$PWD/x"},
    "tasks": [
        {"id": "make", "command": "make all | tee log"},
        {"id": "now", "command": "true", "env": {"NOW": "$(date)", "REF": "${{ github.ref }}"}},
        {
            "id": "use",
            "command": ["echo", "${item.name}"],
            "env": {"V": "${tasks.make.outputs.v}"},
            "depends_on": "make",
        },
    ],
}
WARNINGS = (
    "task 'make': of a pipe",
    "env.HERE: $PWD stays as it is",
    "task 'now': env.NOW: $(date) stays as it is",
    "task 'now': env.REF: ${{ github.ref }} looks like a reference and is not one",
    "task 'use': command: ${item.name} looks like a reference and is not one",
    "task 'use' refers to ${tasks.make.outputs.v}, but nothing in task 'make' seems to write an output",
)
FINE: dict[str, Any] = {
    "dag_id": "fine",
    "params": {"p": {"default": "$HOME"}},
    "env": {"PRICE": "5$", "P": "${params.p}", "L": "$${params.p}"},
    "tasks": [
        {"id": "lines", "command": "echo v=1 >> $CIS_OUTPUT"},
        {"id": "program", "command": "./build.sh"},
        {"id": "shell", "command": ["sh", "-c", "echo ${HOME.x} $(date)"]},
        {
            "id": "use",
            "command": ["echo", "${tasks.lines.outputs.v}", "${tasks.program.outputs.w}"],
            "depends_on": ["lines", "program"],
        },
    ],
}


def test_what_is_doubtful_is_warned_of_refused_only_when_asked_to_and_said_over_http_too(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = write_dag(tmp_path, DOUBTFUL)
    said = sandbox.json("dag", "validate", path)
    strict = sandbox.cis("dag", "validate", path, "--strict", "--json")
    shown = sandbox.cis("dag", "validate", path, "--strict")
    with sandbox.node() as node:
        answer = node.call("POST", "/api/v1/dag/validate", body=DOUBTFUL)
        faulty = node.call("POST", "/api/v1/dag/validate", body={**DOUBTFUL, "tasks": []})
        given = node.call("POST", "/api/v1/dag/validate", body={"dag": FINE, "params": {"q": 1}})
    runs = sandbox.json("dag", "list")

    assert len(said["warnings"]) == len(WARNINGS)
    for warning, begins in zip(said["warnings"], WARNINGS, strict=True):
        assert warning.startswith(begins)
    assert strict.returncode == shown.returncode == 2
    faults = json.loads(strict.stdout)["error"]["faults"]
    assert [fault["message"].partition(" (a warning")[0] for fault in faults] == said["warnings"]
    assert all(warning in shown.stderr for warning in said["warnings"])
    assert (answer.status, answer.body) == (200, said)
    assert (faulty.status, faulty.body["errors"][0]["place"]) == (422, "tasks")
    assert (given.status, [one["place"] for one in given.body["errors"]]) == (422, ["params.q"])
    assert runs == []


@pytest.mark.parametrize("extra", [{}, {"target_node": "node-9"}])
def test_what_is_meant_is_not_warned_of_and_passes_strictly(
    sandbox: Sandbox, tmp_path: Path, extra: dict[str, Any]
) -> None:
    done = sandbox.cis("dag", "validate", write_dag(tmp_path, {**FINE, **extra}), "--strict")

    assert (done.returncode, done.stderr) == (0, "")


def test_very_many_doubts_are_cut_short_and_cost_no_time(sandbox: Sandbox, tmp_path: Path) -> None:
    tasks = [{"id": "a", "command": "true", "env": {"V": "${x.y " * 50_000}}]
    tasks += [{"id": f"t{number}", "command": "true", "env": {"V": f"$({number})"}} for number in range(100)]
    said = sandbox.json("dag", "validate", write_dag(tmp_path, {"dag_id": "many", "tasks": tasks}))

    assert len(said["warnings"]) == 20
    assert max(map(len, said["warnings"])) < 1000
