"""One scope, two nodes: what belongs in one place is refused in a second one, and the rest is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cis.transports.keys import Signer, new_private_key
from tests.worlds.harness import Sandbox, make_sandbox, write_dag

TASKS = [{"id": "t", "command": "true"}]


@pytest.fixture
def three(tmp_path: Path) -> Sandbox:
    """A home whose node trusts two others, which nobody hears: what is handed in for them waits."""
    sandbox = make_sandbox(tmp_path)
    sandbox.json("init", "--node-id", "node-1")
    for name in ("node-2", "node-3"):
        key = Signer(new_private_key()).public_key
        assert sandbox.cis("node", "trust", name, key, "--url", "http://127.0.0.1:9").returncode == 0
    return sandbox


def document(dag_id: str, node: str | None, **fields: Any) -> dict[str, Any]:
    """Return a DAG for a node."""
    target = {} if node is None else {"target_node": node}
    return {"dag_id": dag_id, "tasks": TASKS, **target, **fields}


@pytest.mark.parametrize("scope", ["global", "type:build"])
def test_what_may_be_anywhere_is_at_two_nodes_at_once_with_a_warning(
    three: Sandbox, tmp_path: Path, scope: str
) -> None:
    first = three.json("dag", "run", write_dag(tmp_path, document("one", "node-2", scope=scope)))
    path = write_dag(tmp_path, document("other", "node-3", scope=scope))
    foreseen = three.json("dag", "validate", path)["warnings"]
    second = three.json("dag", "run", path)
    said = three.cis("dag", "run", path).stderr

    assert first["warnings"] == []
    assert (second["status"], second["node_id"], second["target_node"]) == ("pending", "node-1", "node-3")
    for warning in (*foreseen, *second["warnings"]):
        assert (
            f"other goes to node node-3, while scope {scope} has work on node node-2: run {first['run_id']}" in warning
        )
    assert (len(foreseen), len(second["warnings"])) == (1, 1)
    assert "warning: other goes to node node-3" in said


@pytest.mark.parametrize("scope", ["project:p", "user:u"])
def test_what_belongs_in_one_place_is_refused_in_a_second_with_the_ways_out_unless_it_may_be_spread(
    three: Sandbox, tmp_path: Path, scope: str
) -> None:
    first = three.json("dag", "run", write_dag(tmp_path, document("one", "node-2", scope=scope)))
    path = write_dag(tmp_path, document("other", "node-3", scope=scope))
    foreseen = three.json("dag", "validate", path)["warnings"]
    refused = three.json("dag", "run", path, expect=4)["error"]
    spread = three.json("dag", "run", write_dag(tmp_path, document("other", "node-3", scope=scope, spread=True)))
    same_place = three.json("dag", "run", write_dag(tmp_path, document("more", "node-2", scope="user:other")))

    assert refused["code"] == "scope.worker_conflict"
    for text in (refused["message"], *foreseen):
        for named in ("other", "one", first["run_id"], scope, "node-2", "node-3", "cancel", "spread: true", "scope:"):
            assert named in text
    assert len(foreseen) == 1
    assert (spread["status"], spread["warnings"]) == ("pending", [])
    assert same_place["status"] == "pending"


def test_validate_sees_it_in_the_dags_below_as_well(three: Sandbox, tmp_path: Path) -> None:
    scope = "project:p"
    below = {"id": "b", "skill": "dag", "params": {"document": document("below", "node-3", scope=scope)}}
    by_name = {"id": "s", "skill": "dag", "params": {"dag_id": "stored"}}
    three.json("dag", "save", write_dag(tmp_path, document("stored", "node-3", scope=scope)))

    def warned(**fields: Any) -> list[str]:
        path = write_dag(tmp_path, {**document("top", "node-2", scope=scope), **fields})
        found: list[str] = three.json("dag", "validate", path)["warnings"]
        return found

    told = [warned(tasks=[below]), warned(tasks=[by_name])]

    for (warning,), name in zip(told, ("below", "stored"), strict=True):
        assert f"{name} for node node-3 is refused while {scope}" in warning
        assert "top has on node node-2" in warning
    assert warned(tasks=[below], scope="project:q") == []
    assert warned(tasks=[{**below, "params": {"document": document("below", "node-2", scope=scope)}}]) == []
