"""InstalledSkills: built-in skills at once, those of packages when asked for, broken ones reported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder, MetadataPathFinder
from pathlib import Path
from typing import Any

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


def test_a_skill_is_found_however_its_package_was_installed(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("eggy", GOOD, "of-an-egg = eggy:Skill")
    (tmp_path / "eggy-1.2.dist-info").rename(tmp_path / "Eggy.EGG-INFO")
    egg = tmp_path / "other-1.2-py3.egg"
    (egg / "EGG-INFO").mkdir(parents=True)
    (egg / "other.py").write_text(GOOD)
    (egg / "EGG-INFO" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.2\n")
    (egg / "EGG-INFO" / "entry_points.txt").write_text("[cis.skills]\nof-a-folder = other:Skill\n")
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", GOOD)
        file.writestr("zipped-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.2\n")
        file.writestr("zipped-1.2.dist-info/entry_points.txt", "[cis.skills]\nof-an-archive = zipped:Skill\n")

    found = {}
    for path in (None, egg, archive):
        with monkeypatch.context() as only:
            if path is not None:
                only.setattr(sys, "path", [str(path), *(each for each in sys.path if each != str(tmp_path))])
            found[path] = {info.name for info in InstalledSkills().infos() if info.name.startswith("of-")}

    assert found == {None: {"of-an-egg"}, egg: {"of-a-folder"}, archive: {"of-an-archive"}}


def test_a_skill_is_found_that_only_a_finder_knows(
    package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package("goodpkg", GOOD, "good = goodpkg:Skill")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])

    class Finder:
        """Finds what is in the folder that the path does not name."""

        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
            return PathFinder.find_spec(fullname, [str(tmp_path)], target) if path is None else None

        @classmethod
        def find_distributions(cls, context: Any) -> Any:
            return MetadataPathFinder.find_distributions(
                DistributionFinder.Context(name=context.name, path=[str(tmp_path)])
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])

    assert InstalledSkills().get("good").description == "Does good."


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
