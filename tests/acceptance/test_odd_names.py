"""Bytes that are not UTF-8, wherever they come in: one clear line, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox

BAD = b"caf\xe9"
DOCUMENT = '{"dag_id": "named", "tasks": [{"id": "a", "command": "printenv LC_X | od -An -tx1"}]}'


def cis(
    sandbox: Sandbox, *arguments: str | bytes, folder: Path | None = None, **environment: bytes
) -> subprocess.CompletedProcess[bytes]:
    """Run ``cis`` with arguments and variables that need not be text."""
    env = {os.fsencode(name): os.fsencode(value) for name, value in sandbox.env.items()}
    env |= {os.fsencode(name): value for name, value in environment.items()}
    command = [os.fsencode(one) for one in (sys.executable, "-m", "cis", *arguments)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, check=False, timeout=60)


ARGUMENTS: tuple[tuple[str | bytes, ...], ...] = (
    ("dag", "status", BAD),
    ("dag", "logs", BAD),
    ("dag", "run", "named.json", "--scope", b"project:" + BAD),
    ("dag", "run", "named.json", "--idempotency-key", BAD),
    ("dag", "run", "no" + os.fsdecode(BAD)),
    ("dag", "list", "--scope", b"project:" + BAD),
    ("audit", "--actor", BAD),
    ("db", "backup", BAD),
    ("db", "restore", BAD),
    ("node", "start", "--node-id", BAD),
    ("node", "trust", BAD, "x"),
    ("token", "create", BAD),
    ("worker", "run", "--id", BAD, "--scope", "global"),
    ("dag", "import", BAD, "--from", "wfformat"),
)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: "-".join(str(one) for one in arguments[:3]))
def test_an_argument_that_is_not_utf8_is_answered_with_one_clear_line(
    sandbox: Sandbox, tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    (tmp_path / "named.json").write_text(DOCUMENT)
    done = cis(sandbox, *arguments, folder=tmp_path)

    assert done.returncode in (2, 3)
    assert b"Traceback" not in done.stderr
    assert rb"caf\xe9" in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert not (tmp_path / os.fsdecode(BAD)).exists()


def test_a_document_below_a_folder_that_is_not_utf8_is_refused_and_one_whose_own_name_is_not_runs(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"d" + BAD)
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / os.fsdecode(BAD + b".json")).write_text(DOCUMENT)
    below = cis(sandbox, "dag", "run", BAD + b".json", folder=folder)
    standard_input = cis(sandbox, "dag", "run", "-", folder=folder)
    own = cis(sandbox, "dag", "run", BAD + b".json", folder=tmp_path)

    for done in (below, standard_input):
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
    assert rb"caf\xe9 is not UTF-8" in below.stderr
    assert own.returncode == 0


def test_variables_that_are_not_utf8_reach_the_task_as_they_are_and_are_refused_as_settings(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "named.json").write_text(DOCUMENT)
    ran = cis(sandbox, "dag", "run", "named.json", folder=tmp_path, LC_X=BAD, TERM=BAD, USER=BAD)
    logs = cis(sandbox, "dag", "logs", "named")
    setting = cis(sandbox, "config", "check", CIS_LABELS=BAD)
    home = cis(sandbox, "dag", "list", CIS_HOME=os.fsencode(tmp_path) + b"/" + BAD)

    assert ran.returncode == 0
    assert b"63 61 66 e9" in logs.stdout
    assert setting.returncode == 2
    assert rb"CIS_LABELS: caf\xe9 is not UTF-8" in setting.stderr
    assert home.returncode == 2
    assert rb"caf\xe9: its name is not UTF-8" in home.stderr
    assert b"Traceback" not in home.stderr
