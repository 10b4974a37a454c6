"""The node as a service: the file that a service manager reads, and what it is told."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cis.node.service import Service, launchd_plist, path_with_cis, systemd_unit
from tests.worlds.debian import program
from tests.worlds.harness import Sandbox, make_sandbox

SERVICE = Service(
    name="cis",
    node_id="node-1",
    home=Path('/home/me/a home/100% "own" \\ back$lash'),
    path="/opt/my tools/bin:/usr/bin",
    stop_s=30.0,
    system=False,
)

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$CIS_TEST_TOLD"
for word; do
  case $word in
    is-enabled) echo enabled;;
    is-active) echo active;;
  esac
done
"""


@pytest.fixture
def machine(tmp_path: Path) -> Sandbox:
    """A home, a user's configuration, and a ``systemctl`` that writes down what it is told."""
    if sys.platform == "darwin":
        pytest.skip("launchd is told by launchctl")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(SYSTEMCTL)
    (tools / "systemctl").chmod(0o700)
    sandbox = make_sandbox(tmp_path)
    env = {
        **sandbox.env,
        "PATH": f"{tools}:{sandbox.env['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "CIS_TEST_TOLD": str(tmp_path / "told"),
    }
    return Sandbox(sandbox.home, env)


def told(tmp_path: Path) -> list[str]:
    """Return what ``systemctl`` was told, but for questions."""
    return [line for line in (tmp_path / "told").read_text().splitlines() if " is-" not in line]


def test_a_service_of_this_user_is_installed_shown_and_removed(machine: Sandbox, tmp_path: Path) -> None:
    node_id = machine.json("init", "--node-id", "node-1")["node_id"]
    absent = machine.json("service", "status", "--user", expect=3)["error"]
    installed = machine.json("service", "install", "--user")
    unit = Path(installed["file"])
    text = unit.read_text()
    shown = machine.json("service", "status", "--user")
    again = machine.cis("service", "install", "--user")
    began = told(tmp_path)
    removed = machine.json("service", "uninstall", "--user")

    assert absent["code"] == "not_found"
    assert unit == tmp_path / "config" / "systemd" / "user" / f"cis-{node_id}.service"
    assert (installed["manager"], installed["installed"], installed["active"]) == ("systemd", True, True)
    assert shown == installed
    assert (again.returncode, unit.name in again.stdout, "enable-linger" in again.stderr) == (0, True, True)
    assert f'Environment="CIS_HOME={machine.home}"' in text
    assert f'Environment="PATH={machine.env["PATH"]}' in text
    for line in ("Restart=on-failure", "RestartSec=5", "KillMode=mixed", "TimeoutStopSec=30"):
        assert line in text.splitlines()
    assert began[:2] == ["--user daemon-reload", f"--user enable --now {unit.name}"]
    assert told(tmp_path)[-2:] == [f"--user disable --now {unit.name}", "--user daemon-reload"]
    assert not removed["installed"]
    assert not unit.exists()


def test_what_would_be_installed_can_be_looked_at_first(machine: Sandbox, tmp_path: Path) -> None:
    printed = machine.cis("service", "install", "--user", "--print")

    assert printed.stdout.startswith("[Unit]\n")
    assert not (tmp_path / "config").exists()


def test_a_machine_without_a_running_manager_gets_the_file_and_the_command_for_it(
    machine: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "tools" / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")

    done = machine.cis("service", "install", "--user")

    assert done.returncode == 0
    assert "could not be started" in done.stderr
    assert "Failed to connect to bus; by hand: systemctl --user enable --now cis-" in done.stderr
    assert "does not run" in done.stdout


@pytest.mark.parametrize("kind", ["user", "system"])
def test_systemd_takes_the_unit_whatever_the_home_and_the_path_are_called(tmp_path: Path, kind: str) -> None:
    analyze = program("systemd-analyze")
    unit = tmp_path / "cis.service"
    unit.write_text(systemd_unit(replace(SERVICE, system=kind == "system")))

    done = subprocess.run(
        [analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )

    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    assert 'Environment="CIS_HOME=/home/me/a home/100%% \\"own\\" \\\\ back$lash"' in unit.read_text()


def test_launchd_is_told_the_same() -> None:
    read = plistlib.loads(launchd_plist(SERVICE))

    assert read["ProgramArguments"] == [sys.executable, "-P", "-m", "cis", "node", "start"]
    assert read["EnvironmentVariables"] == {"CIS_HOME": str(SERVICE.home), "PATH": SERVICE.path}
    assert read["KeepAlive"] == {"SuccessfulExit": False}


def test_cis_is_found_behind_all_else_that_the_path_has() -> None:
    own = str(Path(sys.executable).parent)

    assert path_with_cis("/a:/b") == f"/a:/b:{own}"
    assert path_with_cis(f"{own}:/b") == f"{own}:/b"


def test_a_task_finds_the_command_that_runs_it(sandbox: Sandbox, tmp_path: Path) -> None:
    document = tmp_path / "d.json"
    document.write_text('{"dag_id": "d", "tasks": [{"id": "t", "command": "cis --version"}]}')
    bare = Sandbox(sandbox.home, {**sandbox.env, "PATH": "/usr/bin:/bin"})

    bare.json("dag", "run", str(document))

    assert bare.cis("dag", "logs", "d").stdout.startswith("cis ")
