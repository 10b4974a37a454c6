"""What a skill does wrong is the task's fault, never the worker's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cis.engine.attempts import AttemptMaker
from cis.engine.logfiles import LogFiles
from cis.errors import LaunchError
from cis.model.states import AttemptState
from cis.store.records import AttemptRecord
from tests.unit.engine.test_plan import plan_of, task


class Broken:
    """A skill, and the book that has it, which raises what no skill should."""

    literal_params: frozenset[str] = frozenset()

    def get(self, _name: str) -> Any:
        return self

    def infos(self) -> list[Any]:
        return []

    def check(self, _params: Any) -> list[tuple[str, str]]:
        return []

    def plan(self, _params: Any) -> Any:
        raise KeyError("surprise")


def test_whatever_a_skill_raises_becomes_the_error_of_its_attempt(tmp_path: Path) -> None:
    maker = AttemptMaker(
        skills=Broken(),
        logfiles=LogFiles(tmp_path),
        base_env={},
        node_id="n",
        worker_id="w",
        workdir=tmp_path,
    )
    attempt = AttemptRecord(
        run_id="r",
        task_no=0,
        task_id="a",
        attempt=1,
        status=AttemptState.RUNNING,
        worker_id="w",
        epoch=1,
        started_at_us=1,
    )
    with pytest.raises(LaunchError, match="surprise"):
        maker.launch(plan_of(task("a")), 0, attempt)
