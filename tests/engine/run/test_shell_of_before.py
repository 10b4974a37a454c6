"""What was accepted before text commands were read by ``/bin/sh -e`` is read by ``/bin/sh``, for as long as it lasts."""

from __future__ import annotations

from pathlib import Path

from cis.engine.accept.reruns import rerun_of
from cis.engine.accept.submit import SubmitRequest, save, submit
from cis.model.document import dag_from_plain
from cis.store.records import RunRecord
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import Worker, working


def accepted(node: Decider, request: SubmitRequest) -> RunRecord:
    with node.store.transaction():
        return submit(node.store, request, this_node=node.this_node).run


def ended(worker: Worker, run: RunRecord) -> str:
    """Have a run done; return its end."""
    worker.until(lambda: worker.node.run(run.run_id).status.final, "its end")
    return str(worker.node.run(run.run_id).status)


def test_a_run_of_before_keeps_its_shell_in_its_retries_its_reruns_and_the_dags_within_it(tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/twice || {{ touch {tmp_path}/twice; exit 1; }}"
    inner = {"dag_id": "inner", "tasks": [{"id": "a", "command": f"false\necho inner >> {tmp_path}/ran"}]}
    stored = {"dag_id": "stored", "tasks": [{"id": "a", "command": "false\ntrue"}]}
    tasks = [
        {"id": "a", "command": f"false\necho outer >> {tmp_path}/ran\n{once}", "max_retries": 1, "retry_delay": 0},
        {"id": "b", "skill": "dag", "params": {"document": inner}, "depends_on": ["a"]},
    ]
    outer = dag_from_plain({"dag_id": "outer", "target_node": "node-1", "tasks": tasks})
    by_name = dag_from_plain(
        {"dag_id": "x", "target_node": "node-1", "tasks": [{"id": "a", "skill": "dag", "params": {"dag_id": "stored"}}]}
    )
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        with node.store.transaction():
            save(node.store.definitions, dag_from_plain(stored), this_node=node.this_node)
        old = accepted(node, SubmitRequest(spec=outer, errexit=False))
        before = ended(worker, old)
        again = ended(worker, accepted(node, rerun_of(node.store, old.run_id).request))
        new = ended(worker, accepted(node, SubmitRequest(spec=outer)))
        named = ended(worker, accepted(node, SubmitRequest(spec=by_name, errexit=False)))

    assert (before, again, new, named) == ("completed", "completed", "failed", "failed")
    assert (tmp_path / "ran").read_text().split() == ["outer", "outer", "inner", "outer", "inner"]
