"""What a skill does wrong is the task's fault, never the worker's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cis.engine.logfiles import LogFiles
from cis.engine.run.attempts import AttemptMaker
from cis.errors import LaunchError
from tests.engine.run.test_plan import plan_of, task
from tests.worlds import rows

ATTEMPT = rows.attempt("r", task_id="a")


class OneSkill:
    """A skill, and the book that has no other: each plan is what *answer* says."""

    literal_params: frozenset[str] = frozenset()

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer

    def get(self, _name: str) -> Any:
        return self

    def waits(self, _name: str) -> bool:
        return False

    def infos(self) -> list[Any]:
        return []

    def check(self, _params: Any) -> list[tuple[str, str]]:
        return []

    def plan(self, params: Any) -> Any:
        return self._answer(params)


def broken(_params: Any) -> Any:
    """Raise what no skill should."""
    raise KeyError("surprise")


def test_whatever_a_skill_raises_becomes_the_error_of_its_attempt(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="surprise"):
        maker(tmp_path).launch(plan_of(task("a")), 0, ATTEMPT)


def test_a_cwd_in_the_home_of_nobody_is_the_error_of_its_task(tmp_path: Path) -> None:
    plan = plan_of(task("a", cwd="~nobody-has-this-name/x"))

    with pytest.raises(LaunchError, match="whose home is not known"):
        maker(tmp_path).directory(plan, plan.task_spec(0))


def maker(tmp_path: Path) -> AttemptMaker:
    """Return what prepares attempts with a broken skill."""
    return AttemptMaker(
        skills=OneSkill(broken),
        logfiles=LogFiles(tmp_path),
        base_env={},
        node_id="n",
        worker_id="w",
        workdir=tmp_path,
    )
