"""Completion: what fits is offered, and bash, zsh and fish offer it."""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cis.cli.completion import complete
from cis.transports.keys import Signer, new_private_key
from tests.worlds.debian import program
from tests.worlds.harness import Sandbox, make_sandbox, write_dag
from tests.worlds.waiting import wait_for

DOCUMENT = {"dag_id": "proj-a-hello", "tasks": [{"id": "one", "command": "true"}, {"id": "other", "command": "true"}]}
BASH = """
eval "$(cis completion bash)"
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete cis
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A home with a run, a stored DAG, a peer and a token; no node runs."""
    folder = tmp_path_factory.mktemp("full")
    made = make_sandbox(folder)
    own = Path(sys.executable).parent
    sandbox = Sandbox(made.home, {**made.env, "PATH": f"{own}:{made.env['PATH']}", "HOME": str(folder)})
    sandbox.json("init", "--node-id", "node-1")
    sandbox.json("dag", "run", write_dag(folder, DOCUMENT))
    sandbox.json("dag", "save", write_dag(folder, {**DOCUMENT, "dag_id": "stored"}))
    sandbox.json("token", "create", "ci-runner")
    key = Signer(new_private_key()).public_key
    assert sandbox.cis("node", "trust", "node-2", key, "--url", "http://127.0.0.1:9").returncode == 0
    return sandbox


@pytest.mark.parametrize(
    ("what", "prefix", "offered"),
    [
        ("dag_ids", "", ["proj-a-hello", "stored"]),
        ("dag_ids", "proj-", ["proj-a-hello"]),
        ("stored_ids", "", ["stored"]),
        ("task_ids", "", ["one", "other"]),
        ("task_ids", "ot", ["other"]),
        ("states", "c", ["completed", "cancelled"]),
        ("priorities", "", ["low", "normal", "high", "critical"]),
        ("nodes", "node", ["node-1", "node-2"]),
        ("peers", "", ["node-2"]),
        ("tokens", "ci", ["ci-runner"]),
        ("scopes", "", ["global", "project:proj-a"]),
        ("worker_ids", "worker", ["worker-project-proj-a"]),
        ("documents", "st", ["stored"]),
        ("documents", "dag", ["dag.json"]),
        ("documents", "ho", ["home/"]),
        ("documents", "./", ["./dag.json", "./home/"]),
        ("nothing", "", []),
    ],
)
def test_what_fits_is_offered(
    full: Sandbox, monkeypatch: pytest.MonkeyPatch, what: str, prefix: str, offered: list[str]
) -> None:
    monkeypatch.setenv("CIS_HOME", str(full.home))
    monkeypatch.chdir(full.home.parent)

    found = complete(what, prefix, argparse.Namespace(dag_id="proj-a-hello"))

    assert [one for one in found if one not in ("node.log", ".config/", ".local/")] == offered


def test_runs_are_offered_of_the_dag_that_is_named_and_nothing_of_one_that_is_not_there(
    full: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIS_HOME", str(full.home))
    (run,) = full.json("dag", "list")

    assert complete("run_ids", run["run_id"][:4], argparse.Namespace(dag_id="proj-a-hello")) == [run["run_id"]]
    assert complete("run_ids", "", argparse.Namespace(dag_id="stored")) == []
    assert complete("task_ids", "", argparse.Namespace(dag_id="nothing")) == []


def run(full: Sandbox, *command: str) -> list[str]:
    """Run a command in the folder of the documents, and return its lines."""
    options: dict[str, Any] = {"env": dict(full.env), "cwd": full.home.parent, "text": True, "timeout": 60}
    done = subprocess.run(command, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return [line.split("\t")[0].strip() for line in done.stdout.splitlines()]


def test_bash_offers_it(full: Sandbox) -> None:
    bash = program("bash")

    assert run(full, bash, "-c", BASH, "bash", "cis dag logs proj") == ["proj-a-hello"]
    assert run(full, bash, "-c", BASH, "bash", "cis dag logs proj-a-hello --task ot") == ["other"]


def test_fish_offers_it(full: Sandbox) -> None:
    fish = program("fish")
    ask = "cis completion fish | source; complete --do-complete 'cis dag logs proj-a-hello --task ot'"

    assert run(full, fish, "--no-config", "-c", ask) == ["other"]


def test_zsh_offers_it(full: Sandbox) -> None:
    zsh = program("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(full.home.parent)
        os.execve(zsh, [zsh, "-f", "-i"], {**full.env, "TERM": "dumb"})  # noqa: S606 - the shell that is driven
    os.set_blocking(terminal, False)
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        try:
            shown += os.read(terminal, 4096)
        except BlockingIOError:
            return False
        return text in shown

    try:
        os.write(terminal, b'autoload -U compinit; compinit -u -D; eval "$(cis completion zsh)"; print re""ady\n')
        wait_for(lambda: shows(b"ready"), timeout_s=60, what="zsh")
        os.write(terminal, b"cis dag logs proj-a-hello --task ot\t")
        wait_for(lambda: shows(b"--task other"), timeout_s=60, what="the rest of the word")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
