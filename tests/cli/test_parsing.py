"""The command line itself: every command's parser, mistakes, exit statuses, a program that is told to end."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cis.cli import main as cli
from cis.errors import CisError, DocumentError, Fault, NotFoundError
from tests.worlds.debian import program


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "gc", SimpleNamespace(set_threshold=lambda _: None, freeze=lambda: None))


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return a parser and all those below it."""
    below = [
        choice for action in parser._actions if isinstance(action.choices, dict) for choice in action.choices.values()
    ]
    return [parser, *(deeper for one in below for deeper in parsers(one))]


def command(raises: BaseException) -> Any:
    """Return a stand-in for the parser, whose command fails."""

    def call(_: argparse.Namespace) -> int:
        raise raises

    return lambda _: SimpleNamespace(parse_args=lambda _: SimpleNamespace(call=call))


@pytest.mark.parametrize("parser", parsers(cli.build_parser()), ids=lambda parser: str(parser.prog))
def test_every_command_can_say_what_it_takes(parser: argparse.ArgumentParser) -> None:
    assert parser.prog in parser.format_help()


def test_every_command_that_ends_somewhere_calls_something() -> None:
    leaves = [one for one in parsers(cli.build_parser()) if not any(isinstance(a.choices, dict) for a in one._actions)]

    assert [one.prog for one in leaves if one.get_default("call") is None] == []


@pytest.mark.parametrize(
    ("arguments", "told", "helps"),
    [
        ("dga list", "there is no command 'dga'; did you mean 'dag'?", "cis --help"),
        ("dag lst", "there is no command 'lst'; did you mean 'list'?", "cis dag --help"),
        ("dag worker lst", "there is no command 'lst'; did you mean 'list'?", "cis dag worker --help"),
        (
            "dag list --statsu failed",
            "there is no argument '--statsu' here; did you mean '--status'?",
            "cis dag list --help",
        ),
        ("dag list more", "there is no argument 'more' here", "cis dag list --help"),
        ("completion bsh", "shell 'bsh' is not one of bash, zsh, fish; did you mean 'bash'?", "cis completion --help"),
        ("dag import x --from airflow", "--from 'airflow' is not one of wfformat", "cis dag import --help"),
        ("dag logs", "DAG_ID", "cis dag logs --help"),
        ("dag", "COMMAND", "cis dag --help"),
        ("", "COMMAND", "cis --help"),
        ("dag list --limit many", "invalid int value: 'many'", "cis dag list --help"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant_and_where_the_help_is(
    arguments: str, told: str, helps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(arguments.split())
    said = capsys.readouterr()

    assert status == 2
    assert said.out == "" if arguments else "usage: cis" in said.out
    assert said.err.startswith("cis: ")
    assert told in said.err
    assert said.err.endswith(f"try: {helps}\n")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (NotFoundError("run", "x"), 3, "cis: no run 'x'\n"),
        (CisError("broken"), 1, "cis: broken\n"),
        (KeyboardInterrupt(), 130, ""),
        (KeyboardInterrupt(signal.SIGTERM), 143, ""),
        (PermissionError(13, "Permission denied", "/x/lock"), 1, "cis: /x/lock: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "cis: the system says: No space left on device\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(
    error: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "build_parser", command(error))

    assert cli.main(["dag", "list"]) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("arguments", "error", "code", "faults"),
    [
        ("dag list --json", NotFoundError("run", "x"), "not_found", []),
        ("dag list --js", CisError("broken"), "internal", []),
        (
            "dag run d --json",
            DocumentError([Fault(place="tasks[0]", message="is odd", line=3)]),
            "document.invalid",
            [{"place": "tasks[0]", "message": "is odd", "line": 3}],
        ),
        ("dag list --json", PermissionError(13, "Permission denied", "/x/lock"), "internal", []),
    ],
)
def test_where_json_is_asked_for_an_error_is_json_too(
    arguments: str,
    error: BaseException,
    code: str,
    faults: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "build_parser", command(error))

    status = cli.main(arguments.split())
    said = capsys.readouterr()
    told = json.loads(said.out)["error"]

    assert status == getattr(error, "exit_status", 1)
    assert said.err == f"cis: {told['message']}\n"
    assert (told["code"], told["faults"]) == (code, faults)


def test_a_mistake_in_a_command_line_that_asks_for_json_is_json_and_a_word_after_two_dashes_asks_for_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["dag", "list", "--json", "--statsu", "x"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert (told["code"], told["faults"]) == ("usage", [])
    assert "did you mean '--status'?" in told["message"]

    assert cli.main(["dag", "list", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "build_parser", command(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        cli.main(["dag", "list"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_is_one_that_the_shell_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    done = subprocess.run([program(shell), "-n"], input=script, text=True, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
