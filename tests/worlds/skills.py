"""Skills of a test, as packages bring them: none is known by name before somebody has asked for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cis.engine.ports import ChildDag, Command, Wait
from cis.skills.registry import InstalledSkills, _Installed


class Brought:
    """A skill whose plan is what *plans* returns for the parameters."""

    description = "of a test"
    triggers: tuple[str, ...] = ("task",)
    literal_params: frozenset[str] = frozenset()

    def __init__(
        self, name: str, plans: Callable[[Mapping[str, Any]], Command | ChildDag | Wait], *, waits: bool
    ) -> None:
        self.name = name
        self.waits = waits
        self.plan = plans

    def check(self, _params: Mapping[str, Any]) -> list[tuple[str, str]]:
        return []


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


class WithSkills(InstalledSkills):
    """The installed skills, and *brought*."""

    def __init__(self, *brought: Brought) -> None:
        super().__init__()
        self._brought = brought

    def _installed(self) -> _Installed:
        found = super()._installed()
        found.skills.update({skill.name: skill for skill in self._brought})
        return found
