"""A node that is trusted no more hears what became of its runs; each side may be the one that stops trusting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.cluster import ClusterNode, befriend, make_nodes, running
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.timeout(300)


def begun(origin: ClusterNode, executor: ClusterNode) -> str:
    """Have one node run a DAG for the other that goes on for long, and return its id once it runs."""
    document = {"dag_id": "long", "target_node": executor.node_id, "tasks": [{"id": "a", "command": "sleep 600"}]}
    run_id = str(origin.api.execute(document).body["run_id"])
    wait_for(lambda: origin.api.run(run_id)["status"] == "running", timeout_s=90, what="the run to be told of")
    return run_id


@pytest.mark.parametrize("by", ["origin", "executor"])
def test_whoever_is_trusted_no_more_is_told_that_the_run_is_over(tmp_path: Path, by: str) -> None:
    """Or one would go on with it for nobody, and the other would wait for it for ever."""
    origin, executor = make_nodes(tmp_path, 2)
    befriend(origin, executor)
    with running(origin, executor):
        run_id = begun(origin, executor)
        one, other = (origin, executor) if by == "origin" else (executor, origin)
        one.sandbox.json("node", "untrust", other.node_id)

        ended = [node.api.finished(run_id, timeout_s=90)["status"] for node in (origin, executor)]

        assert ended == (["failed", "cancelled"] if by == "origin" else ["cancelled", "cancelled"])
