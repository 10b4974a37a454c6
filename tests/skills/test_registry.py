"""InstalledSkills: built-in skills at once, those of packages when asked for, broken ones reported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cis.errors import NotFoundError
from cis.skills.registry import InstalledSkills

Package = Callable[[str, str, str], None]

GOOD = """
class Skill:
    name = "good"
    description = "Does good."
    triggers = ("task",)
    literal_params = frozenset()
    def check(self, params): return []
    def plan(self, params): raise NotImplementedError
instance = Skill()
class Half:
    description = "Lacks the rest."
class Raises:
    def __init__(self): raise ValueError("no licence")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Return a way to have a package installed: its name, its source, its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str, points: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[cis.skills]\n{points}\n")

    return install


def test_the_built_in_skills_are_there_with_their_triggers() -> None:
    infos = {info.name: info for info in InstalledSkills().infos()}

    assert list(infos)[:4] == ["shell", "http", "python", "dag"]
    assert {infos[name].source for name in ("shell", "http", "python", "dag")} == {"built in"}
    assert infos["dag"].triggers == (
        "http POST /api/v1/dag/execute",
        "room io.cis.dag.execute, !dag run",
        "cli cis dag run",
        "task",
    )
    assert infos["shell"].triggers == ("task",)


def test_entry_points_that_name_the_built_in_skills_are_no_clash(package: Package) -> None:
    package("own", "", "shell = cis.skills.shell:ShellSkill\ndag = cis.skills.dag:DagSkill")

    infos = InstalledSkills().infos()

    assert [info.name for info in infos if info.name in {"shell", "dag"}] == ["shell", "dag"]
    assert [info.error for info in infos if info.error] == []


def test_an_unknown_skill_is_not_found_and_the_nearest_is_named() -> None:
    with pytest.raises(NotFoundError, match="no skill 'htpp'; did you mean 'http'"):
        InstalledSkills().get("htpp")
    with pytest.raises(NotFoundError, match=r"known: dag, .*http, .*python, .*shell"):
        InstalledSkills().get("zzzzzz")


@pytest.mark.parametrize("target", ["Skill", "instance"])
def test_an_installed_skill_is_found_with_the_package_that_brings_it(package: Package, target: str) -> None:
    package("goodpkg", GOOD, f"good = goodpkg:{target}")
    skills = InstalledSkills()

    assert skills.get("good").description == "Does good."
    info = next(info for info in skills.infos() if info.name == "good")
    assert (info.source, info.triggers, info.error) == ("goodpkg 1.2", ("task",), None)


def test_the_nearest_name_may_be_that_of_an_installed_skill(package: Package) -> None:
    package("goodpkg", GOOD, "good = goodpkg:Skill")

    with pytest.raises(NotFoundError, match="did you mean 'good'"):
        InstalledSkills().get("goood")


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("brokenpkg:Absent", "has no attribute 'Absent'"),
        ("absentpkg:Skill", "No module named 'absentpkg'"),
        ("brokenpkg:Half", "brokenpkg:Half lacks triggers, literal_params, check, plan of a skill"),
        ("brokenpkg:Raises", "ValueError: no licence"),
    ],
)
def test_a_broken_skill_is_reported_and_disturbs_no_other(package: Package, target: str, fault: str) -> None:
    package("brokenpkg", GOOD, f"broken = {target}")
    package("goodpkg", GOOD, "good = goodpkg:Skill")
    skills = InstalledSkills()

    infos = {info.name: info for info in skills.infos()}
    assert infos["good"].error is None
    assert infos["broken"].source == "brokenpkg 1.2"
    assert fault in str(infos["broken"].error)
    assert skills.get("good").description == "Does good."
    with pytest.raises(NotFoundError, match="it is installed, but broken"):
        skills.get("broken")


def test_no_package_takes_the_place_of_a_built_in_skill(package: Package) -> None:
    package("goodpkg", GOOD, "shell = goodpkg:Skill")
    skills = InstalledSkills()

    assert skills.get("shell").description.startswith("Runs a command")
    taken = [info for info in skills.infos() if info.name == "shell"]
    assert [info.error for info in taken] == [None, "another skill has this name already"]


def test_packages_are_not_looked_at_for_a_built_in_skill() -> None:
    code = (
        "import sys; from cis.skills.registry import InstalledSkills; InstalledSkills().get('shell')\n"
        "print([name for name in ('importlib.metadata', 'pydantic', 'http.client', 'asyncio') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout == "[]\n"
