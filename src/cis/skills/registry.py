"""Which skills this node has: the built-in ones, and those of installed packages.

A package brings a skill through an entry point of the group ``cis.skills``: its name is the skill's, its object
a class without arguments or an instance (``cis.engine.ports.Skill``). Packages are looked at only when somebody
asks for a name that is not built in, or for the list; where no file of theirs names the group, that is all. One that
cannot be loaded is reported and left out. This package names its own skills in the same way, for other tools to see;
those entries are passed over here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.ports import Skill, SkillInfo
from cis.errors import NotFoundError
from cis.model.ids import did_you_mean
from cis.skills.dag import DagSkill
from cis.skills.http import HttpSkill
from cis.skills.python import PythonSkill
from cis.skills.shell import ShellSkill

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "cis.skills"
BUILT_IN_SOURCE = "built in"

_BUILT_IN: tuple[type[Skill], ...] = (ShellSkill, HttpSkill, PythonSkill, DagSkill)
_OWN_VALUES = frozenset(f"{made.__module__}:{made.__qualname__}" for made in _BUILT_IN)
_PARTS = ("description", "triggers", "literal_params", "check", "plan")


class _Installed:
    """What the packages bring: skills that work, and what is wrong with the others."""

    __slots__ = ("faults", "infos", "skills")

    def __init__(self) -> None:
        self.skills: dict[str, Skill] = {}
        self.infos: list[SkillInfo] = []
        self.faults: dict[str, str] = {}


class InstalledSkills:
    """The ``SkillBook`` of a node. Not thread-safe while it looks at the packages, which happens once."""

    def __init__(self) -> None:
        self._built_in: dict[str, Skill] = {skill.name: skill for skill in (make() for make in _BUILT_IN)}
        self._found: _Installed | None = None

    def get(self, name: str) -> Skill:
        """Return a skill.

        Raises:
            NotFoundError: there is none of that name, or its package cannot be loaded.
        """
        skill = self._built_in.get(name)
        if skill is not None:
            return skill
        installed = self._installed()
        if name in installed.skills:
            return installed.skills[name]
        if name in installed.faults:
            raise NotFoundError("skill", name, hint=f"it is installed, but broken: {installed.faults[name]}")
        known = sorted([*self._built_in, *installed.skills])
        hint = did_you_mean(name, known).removeprefix("; ") or f"known: {', '.join(known)}"
        raise NotFoundError("skill", name, hint=hint)

    def waits(self, name: str) -> bool:
        """Whether the tasks of a skill take no slot; False while its package was not looked at."""
        skill = self._built_in.get(name) or (self._found.skills.get(name) if self._found else None)
        return bool(getattr(skill, "waits", False))

    def infos(self) -> Sequence[SkillInfo]:
        """Return every skill, broken ones too; the built-in ones first."""
        built_in = [
            SkillInfo(
                name=skill.name,
                description=skill.description,
                source=BUILT_IN_SOURCE,
                triggers=skill.triggers,
            )
            for skill in self._built_in.values()
        ]
        return [*built_in, *self._installed().infos]

    def _installed(self) -> _Installed:
        if self._found is None:
            self._found = _look_around(taken=self._built_in.keys())
        return self._found


def _look_around(*, taken: Iterable[str]) -> _Installed:
    found = _Installed()
    if not _packages_may_have_skills():
        return found
    from importlib.metadata import entry_points  # noqa: PLC0415 - 30 ms, and most machines have no such package

    names = set(taken)
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.value in _OWN_VALUES:
            continue
        source = _source(point)
        if point.name in names:
            _report(found, point, source, "another skill has this name already")
            continue
        try:
            skill = _load(point)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's package raises
            _report(found, point, source, f"{type(error).__name__}: {error}")
            found.faults[point.name] = f"{type(error).__name__}: {error} ({source})"
            continue
        names.add(point.name)
        found.skills[point.name] = skill
        found.infos.append(
            SkillInfo(
                name=point.name,
                description=skill.description,
                source=source,
                triggers=tuple(skill.triggers),
            )
        )
    return found


def _packages_may_have_skills() -> bool:
    """Whether a package besides this one names skills, or may do so.

    Looked at are the files that ``importlib.metadata`` would read, in the folders of ``sys.path``. Who has others there
    (archives), or has something that knows packages by itself, has all of it looked at.
    """
    if [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")] != [PathFinder]:
        return True
    for folder in dict.fromkeys(sys.path):
        try:
            packages = [path for path in Path(folder).iterdir() if path.suffix.lower() in (".dist-info", ".egg-info")]
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if folder.endswith(".egg") or any(map(_names_a_skill, packages)):
            return True
    return False


def _names_a_skill(package: Path) -> bool:
    try:
        text = (package / "entry_points.txt").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    section = ""
    for line in map(str.strip, text.splitlines() if GROUP in text else ()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and line and line[0] not in "#;" and line.partition("=")[2].strip() not in _OWN_VALUES:
            return True
    return False


def _load(point: EntryPoint) -> Skill:
    made = point.load()
    skill: Skill = made() if isinstance(made, type) else made
    missing = [part for part in _PARTS if not hasattr(skill, part)]
    if missing:
        raise TypeError(f"{point.value} lacks {', '.join(missing)} of a skill")
    return skill


def _source(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _report(found: _Installed, point: EntryPoint, source: str, fault: str) -> None:
    import logging  # noqa: PLC0415 - most commands want no log

    log = logging.getLogger(__name__)
    log.warning("a skill is left out", extra={"skill": point.name, "source": source, "fault": fault})
    found.infos.append(
        SkillInfo(name=point.name, description=f"broken: {fault}", source=source, triggers=(), error=fault)
    )
