"""A pipeline in a shell's text is told from what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from cis.model.document import dag_from_plain
from cis.model.pipelines import blind_to_pipes, has_pipeline


@pytest.mark.parametrize(
    "text",
    [
        "false | cat",
        "echo a\nfalse |\n  cat",
        'x="$(false | cat)"',
        "(false | cat)",
        "echo `false | cat`",
        "false |& cat",
        "cat <<EOF\nno | pipe\nEOF\ncat x | y",
        "cat <<< 'x' | y",
        "echo a#b | c",
        "case $x in a|b) false | cat;; esac",
    ],
)
def test_a_pipeline_is_found_wherever_a_shell_reads_one(text: str) -> None:
    assert has_pipeline(text)


@pytest.mark.parametrize(
    "text",
    [
        "a || b",
        "echo 'a|b' \"a|b\" a\\|b",
        "case $1 in -h|--help) x;; a|b|c) y;; esac",
        "# a | b\nls",
        "echo $((1|2))",
        "cat <<'EOF'\n| a | b |\nEOF\nls",
        "cat <<-EOF\n\t| a |\n\tEOF\nls",
        "echo >| x",
        "echo ${x#a|b}",
        "echo 'never ended | ",
    ],
)
def test_what_only_looks_like_a_pipeline_is_none(text: str) -> None:
    assert not has_pipeline(text)


@pytest.mark.parametrize(
    ("task", "blind"),
    [
        ({"command": "a | b"}, True),
        ({"command": "a | b", "shell": "bash -e"}, True),
        ({"skill": "shell", "params": {"command": "a | b"}}, True),
        ({"command": "a | b", "shell": "bash -euo pipefail"}, False),
        ({"command": "set -o pipefail\na | b"}, False),
        ({"command": "print(1 | 2)", "shell": "python3"}, False),
        ({"command": ["echo", "a | b"]}, False),
    ],
)
def test_a_task_is_blind_to_pipes_unless_its_shell_sees_them(task: dict[str, Any], blind: bool) -> None:  # noqa: FBT001 - a case
    spec = dag_from_plain({"dag_id": "d", "tasks": [{"id": "t", **task}]})

    assert list(blind_to_pipes(spec)) == (["t"] if blind else [])
