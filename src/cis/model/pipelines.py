"""Finds pipelines in the text of a shell: a warning needs no more than a look at quotes, comments and documents.

It is no parser of a shell. A pattern of ``case`` within parentheses, and ``|`` in ``[[ … =~ … ]]``, pass for pipelines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from cis.model.dag import COMMAND_SKILL, DagSpec, TaskSpec

SHELLS = ("sh", "bash", "zsh", "dash")

_OPENS = {"$((": "))", "$(": ")", "(": ")", '"': '"', "`": "`"}
_CODE = (
    r"""\\.|'[^']*'?|(?<![^\s;(&|])\#[^\n]*|<<<|<<-?[ \t]*(['"]?)(?P<document>[\w.-]+)\1"""
    r"""|\$\(\(?|\$\{[^}]*\}|[`"()\n]|\|\||>\||%s\|"""
)
_PARTS = {
    "": re.compile(_CODE % r"(?:\|[^()|;&\n`]*)+\)|", re.DOTALL),  # also a pattern of case
    '"': re.compile(r"""\\.|\$\(\(?|[`"]""", re.DOTALL),
    "))": re.compile(r"\)\)"),
}
_NESTED = re.compile(_CODE % "", re.DOTALL)


def is_shell(program: str) -> bool:
    """Whether a program is one of the shells that take their text with ``-c``."""
    return program.rpartition("/")[2] in SHELLS


def blind_to_pipes(spec: DagSpec) -> Iterator[str]:
    """Yield the ids of tasks with a pipeline, of which only the last command counts."""
    for task in spec.every_task:
        text = task.command if task.skill is None else task.params.get("command")
        if not isinstance(text, str) or task.skill not in (None, COMMAND_SKILL) or "|" not in text:
            continue
        if "pipefail" not in text and not _sees_pipes(task) and has_pipeline(text):
            yield task.id


def reads_text(task: TaskSpec) -> bool:
    """Whether what reads the text of a command takes it as an argument, as shells do; others take it as a file."""
    words = _shell_words(task)
    return not words or is_shell(words[0])


def _sees_pipes(task: TaskSpec) -> bool:
    words = _shell_words(task)
    return "pipefail" in words or not reads_text(task)


def _shell_words(task: TaskSpec) -> Sequence[str]:
    shell = task.params.get("shell") or task.shell
    return shlex.split(shell) if isinstance(shell, str) else ()


def has_pipeline(text: str) -> bool:
    """Whether a shell would read a pipeline in *text*."""
    opened: list[str] = []  # what ends each part that is open, the innermost last
    documents: list[str] = []  # the words that end those that begin with the next line
    at = 0
    while found := _PARTS.get(opened[-1] if opened else "", _NESTED).search(text, at):
        part, at = found[0], found.end()
        if opened and part == opened[-1]:
            opened.pop()
        elif part in _OPENS:
            opened.append(_OPENS[part])
        elif part == "|":
            return True
        elif part == "\n":
            at = _past(text, documents, at)
            documents.clear()
        elif found.lastgroup == "document":
            documents.append(found["document"])
    return False


def _past(text: str, documents: Sequence[str], at: int) -> int:
    """Return the place behind the documents that begin at *at*."""
    for word in documents:
        end = re.compile(rf"^[ \t]*{re.escape(word)}$", re.MULTILINE).search(text, at)
        at = end.end() if end else len(text)
    return at
