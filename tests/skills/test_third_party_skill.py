"""The example package is installed as a user would install it; its skill is then found, checked and run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "cis-skill-checksum"
DATA = b"what is summed\n"

# What a worker does with a skill, with nothing but the installed packages to go by.
DRIVE = """
import json, sys
from pathlib import Path
from cis.engine.outputs import take_outputs
from cis.engine.ports import Launch
from cis.errors import CisError
from cis.executors.local import LocalExecutor
from cis.skills.registry import InstalledSkills

folder, params = Path(sys.argv[1]), json.loads(sys.argv[2])
skills = InstalledSkills()
skill = skills.get("checksum")
said = {
    "infos": [[info.name, info.source, info.triggers, info.error] for info in skills.infos()],
    "faults": skill.check(params),
}
try:
    command = skill.plan(params)
except CisError as error:
    said["refused"] = str(error)
else:
    executor = LocalExecutor(max_log_bytes=1 << 20)
    env = {**command.env, "CIS_OUTPUT": str(folder / "outputs")}
    launch = Launch(argv=command.argv, env=env, cwd=folder, stdin=command.stdin, stdout=folder / "out", stderr=folder / "err", outputs="")
    executor.start(launch)
    (ended,) = executor.wait(30.0)
    said["exit_code"], said["error"] = ended.exit_code, ended.stderr_tail
    said["outputs"] = dict(take_outputs(folder / "outputs"))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package in it, built without the network and outside of the source tree."""
    folder = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    install = [*pip, "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def drive(installed: Path, folder: Path, **params: object) -> Any:
    """Run the skill in a process that has the package, and return what it said."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    argv = [sys.executable, "-c", DRIVE, str(folder), json.dumps(params)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_installed_package_brings_its_skill(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)

    said = drive(installed, tmp_path, path="data")

    assert ["checksum", "cis-skill-checksum 1.0.0", ["task"], None] in said["infos"]
    assert said["faults"] == []
    assert said["exit_code"] == 0, said["error"]
    assert said["outputs"] == {"checksum": hashlib.sha256(DATA).hexdigest(), "bytes": str(len(DATA))}


def test_it_runs_with_built_in_skills_beside_it_and_each_name_once(installed: Path, tmp_path: Path) -> None:
    names = [name for name, *_ in drive(installed, tmp_path, path="data")["infos"]]

    assert names[:4] == ["shell", "http", "python", "dag"]
    assert sorted(names) == sorted(set(names))


def test_its_own_checks_are_heard(installed: Path, tmp_path: Path) -> None:
    said = drive(installed, tmp_path, pth="data")

    assert [name for name, _ in said["faults"]] == ["pth", "path"]
    assert "params.path is missing" in said["refused"]


def test_its_failure_is_an_exit_status_like_any_other(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)

    said = drive(installed, tmp_path, path="data", expect="00")

    assert said["exit_code"] == 1
    assert "data should have 00" in said["error"]
