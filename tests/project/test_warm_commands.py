"""Commands that tests run as forks of a loaded process (``tests.worlds.warm``) do what processes of their own do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds import warm
from tests.worlds.harness import Sandbox, make_sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A home, which is made already."""
    made = make_sandbox(tmp_path)
    made.json("init", "--node-id", "node-1")
    return made


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["dag", "list"], None),
        (["dag", "list", "--bad"], None),
        (["dag", "status", "never-was", "--json"], None),
        (["dag", "validate", "-"], "tasks: [ö"),
        (["node", "status", "--json"], None),
        (["room", "status"], None),
        (["config", "check"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_fork_says_what_a_process_of_its_own_says(sandbox: Sandbox, words: list[str], given: str | None) -> None:
    alone = subprocess.run(
        [sys.executable, "-m", "cis", *words],
        env=dict(sandbox.env),
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )

    assert warm.fits(words, sandbox.env)
    forked = warm.run(words, sandbox.env, stdin=given, timeout_s=60)

    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_what_runs_tasks_is_no_fork_nor_is_another_version_of_the_program(sandbox: Sandbox) -> None:
    assert not warm.fits(["node", "start"], sandbox.env)
    assert not warm.fits(["dag", "run", "x"], sandbox.env)
    assert not warm.fits(["--version"], sandbox.env)
    assert not warm.fits(["dag", "list"], {**sandbox.env, "PYTHONPATH": "/elsewhere"})
