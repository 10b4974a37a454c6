"""What holds for the project as a whole: sizes, locks, the wheel, and what a command imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worlds import debian
from tests.worlds.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "src").rglob("*.py"))
LOCKS = [ROOT / "requirements" / name for name in ("dev.txt", "runtime.txt")]
LINES_LIMIT = 400
HEAVY = {"asyncio", "fastapi", "http.client", "pydantic", "yaml"}
# A tenth of the time of a list each: what it costs to write a log, to ask other nodes, to submit, to read settings.
RARE = {
    "logging",
    "shutil",
    "tomllib",
    "cis.store.cluster",
    "cis.store.port",
    "cis.engine.accept.dispatch",
    "cis.node.settings",
}


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str | None = None) -> set[str]:
    """Return the names of the packages that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    return {normal(re.split(r"[<>=!~\[; ]", one)[0]) for one in wanted}


def locked(name: str) -> set[str]:
    """Return the names of the packages that a file in requirements/ pins."""
    return {normal(one) for one in re.findall(r"^(\S+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_passes_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_LIMIT


def test_what_several_test_modules_need_is_in_the_worlds() -> None:
    """Whoever looks for a builder finds it in ``tests/worlds``, not in a test of something else."""
    importing = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_", re.MULTILINE)

    assert [path.name for path in (ROOT / "tests").rglob("*.py") if importing.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_for_everything_and_no_address(path: Path) -> None:
    text = path.read_text()
    pins = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)

    assert pins
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
    assert re.findall(r"https?:|file:|--index|--extra-index|--find-links|-e ", text) == []


def test_the_locks_pin_what_pyproject_asks_for() -> None:
    assert declared() <= locked("runtime.txt")
    assert declared("dev") <= locked("dev.txt")
    assert locked("runtime.txt") <= locked("dev.txt")


def test_the_wheel_brings_migrations_types_skills_and_the_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("cis_dag-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/entry_points.txt")]
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert any(name.endswith(".sql") for name in source)
    assert "cis/py.typed" in source
    assert source <= names
    assert "cis = cis.cli.main:command" in entries
    assert set(re.findall(r"^(\w+) = cis\.skills\.", entries, re.MULTILINE)) == {"shell", "http", "python", "dag"}


@pytest.mark.parametrize(
    "arguments",
    [
        "dag list",
        "dag worker list",
        "dag definitions",
        "dag schema",
        "skill list",
        "node list",
        "node status",
        "config show",
        "token list",
    ],
)
def test_a_command_imports_nothing_heavy_that_it_does_not_use(arguments: str, tmp_path: Path) -> None:
    assert HEAVY & imported(arguments, tmp_path / "home") == set()


@pytest.mark.parametrize("arguments", ["dag list --status failed", "dag definitions", "audit --actor ci"])
def test_what_only_reads_imports_nothing_that_others_need(arguments: str, tmp_path: Path) -> None:
    assert (HEAVY | RARE) & imported(arguments, tmp_path / "home") == set()


def test_a_list_of_nodes_loads_nothing_that_changes_whom_this_node_trusts(tmp_path: Path) -> None:
    changing = {"cis.app.trust", "cis.engine.accept.control", "cis.federation.messages", "cis.model.message"}

    assert changing & imported("node list", tmp_path / "home") == set()


def test_what_is_asked_for_most_loads_no_dataclasses_and_ends_without_taking_python_apart(tmp_path: Path) -> None:
    home, document = tmp_path / "home", tmp_path / "dag.json"
    document.write_text('{"dag_id": "one", "tasks": [{"id": "t", "command": "true"}]}')
    imported(f"dag run {document}", home)

    for arguments in ("dag list", "dag status one", "dag logs one"):
        assert {"dataclasses", "inspect", "threading", "logging"} & imported(arguments, home) == set(), arguments


def test_what_a_node_is_and_has_is_said_without_its_keys_and_its_packages(tmp_path: Path) -> None:
    home = tmp_path / "home"
    imported("init", home)

    for arguments in ("node status", "node list", "skill list"):
        unneeded = {"dataclasses", "inspect", "cryptography", "importlib.metadata", "threading", "logging"}
        assert unneeded & imported(arguments, home) == set(), arguments


def test_looking_for_damage_imports_no_node(tmp_path: Path) -> None:
    home = tmp_path / "home"
    imported("init", home)

    assert {"asyncio", "cis.node.node"} & imported("db check", home) == set()


def test_a_node_without_peers_and_room_imports_nothing_that_speaks_to_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with commanded("node start --port 0", home) as node:
        wait_for((home / "run" / "node.json").exists, timeout_s=60, what="the node to announce itself")
        node.terminate()
        modules = imported_by(node)

    assert {"cis.node.cluster", "fastapi"} <= modules
    assert {name for name in modules if name.partition(".")[0] == "httpx" or "matrix" in name} == set()


def imported(arguments: str, home: Path) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    with commanded(arguments, home) as command:
        return imported_by(command)


def imported_by(command: subprocess.Popen[str]) -> set[str]:
    """Wait until a command has ended well, and return the modules that it has imported."""
    said = command.communicate(timeout=60)[1]
    assert command.returncode == 0, said
    return set(said.partition("imported:")[2].split())


@contextmanager
def commanded(arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command that says in the end what it has imported."""
    code = (
        "import sys; from cis.cli.main import main\n"
        "try: status = main()\n"
        "finally: print('imported:', *sorted(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments.split()],
        env={"PATH": "", "CIS_HOME": str(home), "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


@pytest.mark.parametrize(("apt_get", "why"), [(False, "there is no apt-get"), (True, "only root may install packages")])
def test_packages_that_cannot_be_installed_are_named_in_one_line_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, apt_get: bool, why: str
) -> None:
    """Nothing is installed by this test, whoever runs it: the path has no dpkg, and no apt-get that works."""
    if apt_get:
        (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert debian.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert {"fish", "postgresql", "systemd", "zsh"} <= set(line.split())
    assert f"are skipped: {why}. As root: apt-get install" in line
