"""What each built-in skill says of its parameters before anything runs, and what it makes of good ones."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cis.engine.ports import ChildDag, Command
from cis.errors import LaunchError
from cis.skills.dag import DagSkill
from cis.skills.http import DEFAULT_TIMEOUT_S, HttpSkill
from cis.skills.python import PythonSkill
from cis.skills.shell import ShellSkill, shell_command

REFERENCE = "${tasks.a.outputs.x}"
DAG = {"dag_id": "inner", "tasks": [{"id": "a", "command": "true"}]}
SKILLS = {skill.name: skill for skill in (ShellSkill(), HttpSkill(), PythonSkill(), DagSkill())}


@pytest.mark.parametrize(
    ("skill", "params"),
    [
        ("shell", {"command": "make all"}),
        ("shell", {"command": ["make", "all"]}),
        ("http", {"url": "http://127.0.0.1:8000/done"}),
        (
            "http",
            {"url": "https://host", "method": "post", "headers": {"X-A": "1", "X-B": 2}, "json": [1], "timeout": "5s"},
        ),
        ("http", {"url": "http://host", "body": "x", "expect": {"status": [200, "3xx"], "body_contains": "ok"}}),
        ("http", {"url": "http://host", "expect": {"status": "204", "json": {"a.0": None}}}),
        ("http", {"url": REFERENCE, "timeout": REFERENCE, "expect": {"status": REFERENCE}}),
        ("python", {"callable": "json:dumps", "args": [[1]]}),
        ("python", {"module": "os.path", "function": "join", "args": ["a", "b"], "kwargs": {}, "python": "python3"}),
        ("python", {"callable": REFERENCE}),
        ("dag", {"dag_id": "nightly"}),
        ("dag", {"dag_id": REFERENCE}),
        ("dag", {"document": DAG}),
    ],
)
def test_good_parameters_have_no_faults(skill: str, params: dict[str, Any]) -> None:
    assert list(SKILLS[skill].check(params)) == []


@pytest.mark.parametrize(
    ("skill", "params", "fault"),
    [
        ("shell", {}, ("command", "is missing; write what to run")),
        ("shell", {"command": "  "}, ("command", "is empty; write what to run")),
        ("shell", {"command": []}, ("command", "is empty; its first element is the program")),
        ("shell", {"command": ["a", 1]}, ("command", "a list of strings")),
        ("shell", {"command": {"a": 1}}, ("command", "a list of strings")),
        ("dag", {"document": REFERENCE}, ("document", "cannot be a reference")),
        ("dag", {"document": "${secrets.DOCUMENT}"}, ("document", "cannot be a reference")),
        ("shell", {"comand": "true"}, ("comand", "is not a parameter of this skill; did you mean 'command'?")),
        ("http", {}, ("url", "is missing")),
        ("http", {"url": "ftp://host/x"}, ("url", "http://host/path")),
        ("http", {"url": "file:///etc/passwd"}, ("url", "http://host/path")),
        ("http", {"url": "http://"}, ("url", "http://host/path")),
        ("http", {"url": "http://host:99999/"}, ("url", "http://host/path")),
        ("http", {"url": "http://me:secret@host/"}, ("url", "credentials go into headers")),
        ("http", {"url": "http://host/a b"}, ("url", "http://host/path")),
        ("http", {"url": "http://host/\r\nX: y"}, ("url", "http://host/path")),
        ("http", {"url": 7}, ("url", "http://host/path")),
        ("http", {"url": "http://host", "uri": 1}, ("uri", "did you mean 'url'?")),
        ("http", {"url": "http://host", "zzz": 1}, ("zzz", "known: url, method, headers")),
        ("http", {"url": "http://host", "method": "GET /"}, ("method", "a word like POST")),
        ("http", {"url": "http://host", "headers": {"a": "b\nc"}}, ("headers", "single-line strings")),
        ("http", {"url": "http://host", "headers": ["a"]}, ("headers", "a mapping")),
        ("http", {"url": "http://host", "body": {}}, ("body", "for data, use json")),
        ("http", {"url": "http://host", "body": "a", "json": 1}, ("json", "exclude each other")),
        ("http", {"url": "http://host", "timeout": 0}, ("timeout", "a duration above 0")),
        ("http", {"url": "http://host", "timeout": True}, ("timeout", "a duration above 0")),
        ("http", {"url": "http://host", "timeout": "soon"}, ("timeout", "write a number of seconds")),
        ("http", {"url": "http://host", "expect": 200}, ("expect", "a mapping of status")),
        ("http", {"url": "http://host", "expect": {"status": 99}}, ("expect.status", "a class like 2xx")),
        ("http", {"url": "http://host", "expect": {"status": []}}, ("expect.status", "a class like 2xx")),
        ("http", {"url": "http://host", "expect": {"status": True}}, ("expect.status", "a class like 2xx")),
        ("http", {"url": "http://host", "expect": {"body_contain": "x"}}, ("expect.body_contain", "'body_contains'")),
        ("http", {"url": "http://host", "expect": {"json": "x"}}, ("expect.json", "a mapping of paths")),
        ("python", {}, ("callable", "is missing; write package.module:function")),
        ("python", {"callable": "json.dumps"}, ("callable", "must be package.module:function")),
        ("python", {"callable": "os; import x:y"}, ("callable", "must be package.module:function")),
        ("python", {"module": "json"}, ("function", "is missing")),
        ("python", {"callable": "a:b", "module": "a"}, ("module", "repeats callable")),
        ("python", {"callable": "a:b", "args": {}}, ("args", "must be a list")),
        ("python", {"callable": "a:b", "kwarg": {}}, ("kwarg", "did you mean 'kwargs'?")),
        ("python", {"callable": "a:b", "kwargs": []}, ("kwargs", "must be a mapping")),
        ("python", {"callable": "a:b", "python": ""}, ("python", "the path of a Python interpreter")),
        ("dag", {}, ("", "exactly one of document and dag_id, not neither")),
        ("dag", {"document": DAG, "dag_id": "x"}, ("", "exactly one of document and dag_id, not both")),
        ("dag", {"dag": "x"}, ("dag", "did you mean 'dag_id'?")),
        ("dag", {"document": "x"}, ("document", "a mapping with dag_id and tasks")),
        ("dag", {"document": {"dag_id": "x"}}, ("document.tasks", "is missing")),
        ("dag", {"document": DAG | {"tasks": [{"id": "a", "comand": "x"}]}}, ("document.tasks[0].comand", "'command'")),
    ],
)
def test_a_fault_names_its_parameter_and_the_mend(skill: str, params: dict[str, Any], fault: tuple[str, str]) -> None:
    place, text = fault
    faults = dict(SKILLS[skill].check(params))

    assert text in faults[place]


@pytest.mark.parametrize(
    ("skill", "params"),
    [("shell", {"command": ""}), ("http", {"url": "x"}), ("python", {"callable": ""}), ("dag", {"dag_id": ""})],
)
def test_a_value_that_was_filled_in_and_makes_no_sense_fails_the_attempt(skill: str, params: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=next(iter(params))):
        SKILLS[skill].plan(params)


def test_a_line_goes_to_the_shell_and_a_list_does_not() -> None:
    assert SKILLS["shell"].plan({"command": "a && b"}) == Command(argv=("/bin/sh", "-e", "-c", "a && b"))
    assert shell_command(["a", "&&", "b"], interpreter="bash") == Command(argv=("a", "&&", "b"))


@pytest.mark.parametrize(
    ("shell", "argv"),
    [
        ("/bin/sh", ("/bin/sh", "-c", "text")),
        ("bash -euo pipefail", ("bash", "-euo", "pipefail", "-c", "text")),
        ("'/opt/my tools/zsh' -f", ("/opt/my tools/zsh", "-f", "-c", "text")),
    ],
)
def test_a_shell_gets_the_text_after_its_options(shell: str, argv: tuple[str, ...]) -> None:
    assert shell_command("text", interpreter=shell) == Command(argv=argv)


def test_any_other_program_gets_the_text_as_a_file() -> None:
    assert shell_command("text", interpreter="python3 -I") == Command(argv=("python3", "-I"), script=b"text")


def test_what_may_be_secret_is_not_on_the_command_line() -> None:
    for skill, params in (
        ("http", {"url": "http://host/?token=s3cret", "headers": {"Authorization": "s3cret"}}),
        ("python", {"callable": "json:dumps", "args": ["s3cret"]}),
    ):
        command = SKILLS[skill].plan(params)
        assert isinstance(command, Command)
        assert "s3cret" not in " ".join(command.argv)
        assert b"s3cret" in command.stdin


def test_a_request_gets_its_time_limit_in_seconds() -> None:
    def timeout(**more: str) -> object:
        command = SKILLS["http"].plan({"url": "http://host", **more})
        assert isinstance(command, Command)
        return json.loads(command.stdin)["timeout"]

    assert timeout() == DEFAULT_TIMEOUT_S
    assert timeout(timeout="2m") == 120


def test_python_is_the_one_that_runs_the_node_unless_another_is_named() -> None:
    for params, interpreter in (({}, sys.executable), ({"python": "/opt/python"}, "/opt/python")):
        command = SKILLS["python"].plan({"callable": "json:dumps", **params})
        assert isinstance(command, Command)
        assert command.argv[0] == interpreter


def test_a_dag_as_a_task_is_a_document_or_the_id_of_a_stored_one() -> None:
    assert SKILLS["dag"].plan({"document": DAG}) == ChildDag(document=DAG)
    assert SKILLS["dag"].plan({"dag_id": "nightly"}) == ChildDag(dag_id="nightly")


def test_outputs_cannot_be_pasted_where_a_shell_reads_them() -> None:
    assert SKILLS["shell"].literal_params == {"command", "shell"}
    assert SKILLS["dag"].literal_params == set()
