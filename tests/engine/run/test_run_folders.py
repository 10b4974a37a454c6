"""A run has a folder once there is a log in it, and what its tasks need while they live is there again whoever removes it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from cis.model.states import RunState
from tests.worlds.deciding import Decider, decider
from tests.worlds.looping import working


def test_a_run_that_says_nothing_has_no_folder_however_long_it_lives(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        silent = node.submitted({"id": "a", "command": "sleep 0.2"}, target_node="node-1")
        said = node.submitted({"id": "a", "command": "echo said"}, target_node="node-1")
        for run in (silent, said):
            worker.until(partial(_is_over, node, run.run_id), "the end of the run")

        assert not node.logfiles.folder(silent.run_id).exists()
        assert [path.name for path in node.logfiles.folder(said.run_id).iterdir()] == ["0.1.out"]


def test_when_all_logs_are_removed_under_a_run_its_next_task_has_its_files_again(tmp_path: Path) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        hold = {"id": "a", "command": f"echo up; until test -e {tmp_path}/go; do sleep 0.02; done"}
        give = {"id": "b", "command": 'echo x=1 >> "$CIS_OUTPUT"', "depends_on": ["a"]}
        run = node.submitted(hold, give, target_node="node-1")
        worker.until(lambda: node.logfiles.folder(run.run_id).exists(), "the first task's logs")
        shutil.rmtree(node.logfiles.root)
        (tmp_path / "go").touch()
        worker.until(partial(_is_over, node, run.run_id), "the end of the run")

        assert node.store.tasks.of_run(run.run_id)[1].outputs == {"x": "1"}


def _is_over(node: Decider, run_id: str) -> bool:
    return node.run(run_id).status is RunState.COMPLETED
