"""The DAGs of a simulated history, drawn by chance; and the skills that they use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cis.engine.ports import Skill, SkillInfo
from cis.errors import NotFoundError
from cis.model.dag import DagSpec
from cis.skills.dag import DagSkill
from cis.skills.shell import ShellSkill
from tests.chaos.simulation.conditions import draw

SCOPES = ("global", "project:p")


class Book:
    """The two skills of the simulation."""

    _skills: dict[str, Skill] = {"shell": ShellSkill(), "dag": DagSkill()}  # noqa: RUF012 - never changed

    def get(self, name: str) -> Skill:
        """Return a skill. Raises NotFoundError."""
        if name not in self._skills:
            raise NotFoundError("skill", name)
        return self._skills[name]

    def waits(self, name: str) -> bool:
        return name == "dag"

    def infos(self) -> Sequence[SkillInfo]:
        return ()


def draw_spec(rng: random.Random) -> DagSpec:
    """Return a DAG of one to eight tasks."""
    return DagSpec.from_dict(_document(rng, size=rng.choice((1, 2, 3, 4, 6, 8)), depth=0))


def _document(rng: random.Random, *, size: int, depth: int) -> dict[str, Any]:
    many: set[str] = set()  # of which an output is a list
    document: dict[str, Any] = {
        "dag_id": f"d{size}",
        "scope": rng.choice(SCOPES),
        "tasks": [_task(rng, number, depth=depth, many=many) for number in range(size)],
    }
    if rng.random() < 0.5:
        document["priority"] = rng.choice(("low", "high", "critical"))
    if rng.random() < 0.2:
        document["max_parallel"] = rng.randint(1, 2)
    if rng.random() < 0.25:
        names = [name for name in ("success", "failure", "cancel", "exit") if rng.random() < 0.6]
        document["handlers"] = {
            name: {"command": "true", "retry_delay": 0.2, "max_retries": rng.randint(0, 1)} for name in names
        }
    return document


def _task(rng: random.Random, number: int, *, depth: int, many: set[str]) -> dict[str, Any]:
    task: dict[str, Any] = {"id": f"t{number}"}
    parents = [f"t{other}" for other in range(number) if rng.random() < 0.4]
    if parents:
        task["depends_on"] = parents
    if rng.random() < 0.6:
        task["max_retries"] = rng.randint(1, 2)
    task["retry_delay"] = rng.choice((0, 0.2, 1, 3))
    if rng.random() < 0.3:
        task["retry_backoff"] = "exponential"
    task["on_lost"] = rng.choice(("retry", "retry", "fail", "adopt"))
    if rng.random() < 0.25:
        task["timeout"] = rng.choice((0.3, 1.0, 3.0))
    if depth < 2 and rng.random() < 0.12:
        task["skill"] = "dag"
        task["on_lost"] = "fail" if task["on_lost"] == "fail" else "retry"
        unknown = rng.random() < 0.1
        nested = (
            {"dag_id": "nowhere"} if unknown else {"document": _document(rng, size=rng.randint(1, 3), depth=depth + 1)}
        )
        task["params"] = nested
        return task
    task["command"] = "true"
    if rng.random() < 0.15:
        task["foreach"] = [f"i{place}" for place in range(rng.randint(0, 4))]
        task["fail_fast"] = rng.random() < 0.4
        if rng.random() < 0.3:
            task["max_parallel"] = rng.randint(1, 2)
    parents = [one for one in parents if one not in many]
    if "foreach" in task:
        many.add(task["id"])
    draw(rng, task)
    if "timeout" in task:
        task["env"] = {"ENDLESS": "1"}
    elif parents and depth == 0 and "trigger_rule" not in task and rng.random() < 0.5:
        parent = rng.choice(parents)
        task["env"] = {"TOKEN": f"${{tasks.{parent}.outputs.token}}", "PARENT": parent}
    return task
