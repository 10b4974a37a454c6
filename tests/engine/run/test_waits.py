"""Tasks that are waits: they hold no process and no slot, whichever skill plans them."""

from __future__ import annotations

import ast
from pathlib import Path

from cis.engine import accept, run
from cis.engine.ports import ChildDag, Command
from cis.model.states import AttemptState, TaskState
from cis.skills.registry import InstalledSkills
from tests.worlds.deciding import decider
from tests.worlds.looping import working
from tests.worlds.skills import Brought, WithSkills

INNER = {"dag_id": "inner", "tasks": [{"id": "i", "command": "true"}]}
NESTS = Brought("nests", lambda _: ChildDag(document=INNER), waits=True)


def test_the_engine_names_no_skill() -> None:
    names = {info.name for info in InstalledSkills().infos()}
    folders = [Path(str(package.__file__)).parent for package in (accept, run)]
    named = [
        f"{path.name}:{node.lineno}"
        for folder in folders
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]

    assert named == []


def test_a_skill_of_a_package_may_plan_a_dag_which_takes_no_slot_although_nobody_knew_it_before(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        node.skills = WithSkills(NESTS)
        with working(node, tmp_path) as worker:
            node.skills = WithSkills(NESTS)  # the worker's own was not asked yet
            nested = {"command": None, "skill": "nests"}
            first = node.submitted(nested, target_node="node-1", max_parallel=1)
            worker.until(lambda: node.store.runs.children(first.run_id), "its child run")

            assert worker.attempts(first.run_id) == [(1, AttemptState.RUNNING)]
            assert len(worker.loop._held.live) == 0


def test_a_skill_that_plans_a_process_although_it_waits_fails_its_task_with_the_reason(tmp_path: Path) -> None:
    with decider(tmp_path) as node:
        node.skills = WithSkills(Brought("lies", lambda _: Command(argv=("true",)), waits=True))
        with working(node, tmp_path) as worker:
            found = node.submitted({"command": None, "skill": "lies"}, target_node="node-1")
            worker.until(lambda: worker.task(found.run_id).status is TaskState.FAILED, "its end")

            assert "gave a process" in str(worker.task(found.run_id).error)
