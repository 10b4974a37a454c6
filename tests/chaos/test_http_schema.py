"""The HTTP API against its own description: whatever is sent, each answer is one that ``/openapi.json`` promises.

Schemathesis makes requests from the description of a real node, good ones and bad ones, with the node's token and without.
What need not end (``/api/v1/events``, a log that is followed) and what only other nodes can write
(``/api/v1/peers/messages``, see ``test_fuzz.py``) is left to other tests. The commands of the DAGs that it makes up are really run, in a home that is
thrown away. Two checks are left out: a document can fit its schema and still be refused, since nodes, skills and what
holds between tasks are no matter of a schema; and what is accepted beyond it is so on purpose (null for what is left
out, ``FALSE`` for false).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.battery import figures, first_seed, size
from tests.worlds.harness import NodeProcess, Sandbox, make_sandbox

SECONDS = size(20, 600)
SLOW_S = 20.0
UNFIT = "positive_data_acceptance,negative_data_rejection"
_WITH_DOCUMENT = (("/api/v1/dag/execute", "post"), ("/api/v1/dag/validate", "post"), ("/api/v1/dags/{dag_id}", "put"))
ELSEWHERE = ("/api/v1/events", "/api/v1/peers/messages")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A home whose tasks find nothing of their user's, whatever they are told to do."""
    made = make_sandbox(tmp_path)
    (tmp_path / "nobody").mkdir()
    return Sandbox(made.home, {**made.env, "HOME": str(tmp_path / "nobody")})


@pytest.mark.timeout(SECONDS * 2 + 120)
@pytest.mark.parametrize("token", ["own", None], ids=["with a token", "without one"])
def test_every_answer_is_one_that_the_description_promises(sandbox: Sandbox, tmp_path: Path, token: str | None) -> None:
    seed = first_seed()
    with sandbox.node() as node:
        made = node.execute({"dag_id": "proj-a-nightly", "tasks": [{"id": "compile", "command": "echo fine"}]})
        node.finished(made.body["run_id"])
        found = _explore(node, tmp_path, seed=seed, token=node.token if token else None)
        faults = [line for line in sandbox.node_log().splitlines() if "Traceback" in line or " ERROR " in line]

    part = "http with token" if token else "http without"
    figures(part.replace(" ", "_"), seed=seed, seconds=SECONDS, requests=found.get("requests", 0), faults=len(faults))
    assert faults == []


def _explore(node: NodeProcess, folder: Path, *, seed: int, token: str | None) -> dict[str, Any]:
    """Send what the description allows, and what it does not; fail, with what to send again, at the first surprise."""
    described = node.call("GET", "/openapi.json").body
    for path, method in _WITH_DOCUMENT:
        del described["paths"][path][method]["requestBody"]["content"][
            "application/toml"
        ]  # schemathesis cannot write it
    logs = described["paths"]["/api/v1/runs/{run_id}/logs"]["get"]
    logs["parameters"] = [each for each in logs["parameters"] if each["name"] != "follow"]
    description = folder / "openapi.json"
    description.write_text(json.dumps(described))
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(description), "--url", node.url]
    command += ["--seed", str(seed), "--max-time", str(SECONDS), "--max-response-time", str(SLOW_S)]
    command += ["--request-timeout", str(2 * SLOW_S), "--exclude-checks", UNFIT]
    command += ["--generation-database", "none", "--no-color", "--warnings", "off"]
    command += ["--report", "json", "--report-json-path", str(report)]
    for path in ELSEWHERE:
        command += ["--exclude-path", path]
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS + 110, check=False)
    assert done.returncode == 0, f"CIS_SEED={seed}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    return {"requests": _requests(done.stdout), "report": report}


def _requests(said: str) -> int:
    """Return how many requests schemathesis says that it made."""
    found = re.search(r"([0-9,]+) generated", said)
    assert found is not None, said
    return int(found[1].replace(",", ""))
