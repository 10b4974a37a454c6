"""What a skill does wrong is the task's fault, never the worker's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cis.engine.logfiles import LogFiles
from cis.engine.run.attempts import AttemptMaker
from cis.errors import LaunchError
from tests.worlds import rows
from tests.worlds.plans import plan_of, task
from tests.worlds.skills import OneSkill

ATTEMPT = rows.attempt("r", task_id="a")


def broken(_params: Any) -> Any:
    """Raise what no skill should."""
    raise KeyError("surprise")


def test_whatever_a_skill_raises_becomes_the_error_of_its_attempt(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="surprise"):
        maker(tmp_path).launch(plan_of(task("a")), 0, ATTEMPT)


def test_a_cwd_in_the_home_of_nobody_is_the_error_of_its_task(tmp_path: Path) -> None:
    plan = plan_of(task("a", cwd="~nobody-has-this-name/x"))

    with pytest.raises(LaunchError, match="whose home is not known"):
        maker(tmp_path).directory(plan.task_spec(0), plan.values)


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
