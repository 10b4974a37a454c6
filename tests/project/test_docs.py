"""The documents keep step with the code: nothing is left out, and no link leads nowhere."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cis.api import answers  # also defines errors of its own
from cis.cli.main import build_parser
from cis.errors import CisError
from cis.model import message
from cis.model.document import DagDocument, TaskDocument
from cis.model.states import ATTEMPT_ARROWS, RUN_ARROWS, TASK_ARROWS, AttemptState, RunState, TaskState
from cis.node.settings import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "examples")
    for path in (folder.glob("*.md") if folder is ROOT else folder.rglob("*.md"))
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def reference(name: str) -> str:
    """Return one page of the reference."""
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def every_error(kind: type[CisError] = CisError) -> Iterator[type[CisError]]:
    """Yield each class of error of the program, those of the API too."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("cis."):
            yield from every_error(child)


def every_command(parser: argparse.ArgumentParser, path: tuple[str, ...] = ("cis",)) -> Iterator[tuple[str, set[str]]]:
    """Yield each command that does something, and its options, but for those that are hidden or that all have."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for name, child in group.choices.items():
            yield from every_command(child, (*path, name))
    if not groups:
        yield (
            " ".join(path),
            {
                action.option_strings[-1]
                for action in parser._actions
                if action.option_strings and action.help is not argparse.SUPPRESS
            }
            - {"--help", "--json"},
        )


def anchors(path: Path) -> set[str]:
    """Return the anchors that the headings of a document make."""
    headings = _HEADING.findall(_CODE.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("kind", dict.fromkeys(every_error()))
def test_every_error_is_in_the_reference_with_what_it_answers(kind: type[CisError]) -> None:
    rows = [line.split("|") for line in reference("errors").splitlines() if line.startswith(f"| `{kind.code}` |")]

    assert [row[2].strip() for row in rows] == [str(kind.http_status)]
    if not kind.__name__.startswith("_"):
        assert [row[3].strip() for row in rows] == [str(kind.exit_status)]


def test_every_code_in_the_reference_exists() -> None:
    known = {kind.code for kind in every_error()} | {"not_ready", *answers._CODES.values()}

    assert set(re.findall(r"^\| `([a-z_.]+)` \|", reference("errors"), re.MULTILINE)) <= known


@pytest.mark.parametrize(("command", "options"), sorted(every_command(build_parser())))
def test_every_command_is_in_the_reference_with_its_options(command: str, options: set[str]) -> None:
    rows = [line for line in reference("cli").splitlines() if re.match(rf"\| `{re.escape(command)}[ `]", line)]

    assert len(rows) == 1
    assert [option for option in sorted(options) if option not in rows[0]] == []


def test_every_command_in_the_reference_exists() -> None:
    known = {command for command, _ in every_command(build_parser())}
    told = {
        re.sub(r" (-|[A-Z]).*", "", name) for name in re.findall(r"^\| `(cis [^`]+)`", reference("cli"), re.MULTILINE)
    }

    assert told == known


def test_every_setting_is_in_the_reference() -> None:
    page = reference("configuration")

    assert [option.key for option in OPTIONS if f"| `[{option.section}] {option.key}` |" not in page] == []
    assert [option.variable for option in OPTIONS if f"`{option.variable}`" not in page] == []


def test_every_field_of_a_document_is_in_the_reference() -> None:
    fields = {*DagDocument.model_fields, *TaskDocument.model_fields}

    assert [field for field in sorted(fields) if f"`{field}`" not in reference("document")] == []


def test_every_state_is_in_the_reference() -> None:
    states = {*RunState, *TaskState, *AttemptState}

    assert [state for state in sorted(states) if f"| `{state}` |" not in reference("states")] == []


@pytest.mark.parametrize(
    ("heading", "arrows"), [("Run", RUN_ARROWS), ("Task", TASK_ARROWS), ("Attempt", ATTEMPT_ARROWS)]
)
def test_the_diagrams_of_states_draw_every_arrow_and_who_moves_along_it(
    heading: str, arrows: Mapping[RunState | TaskState | AttemptState, Mapping[str, frozenset[str]]]
) -> None:
    section = reference("states").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    drawn = {
        (old, new): frozenset(who.split(", ")) if who else None
        for old, new, who in re.findall(r"^    (\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.+))?$", section, re.MULTILINE)
        if old != "[*]"
    }

    assert drawn == {
        **{(str(old), str(new)): movers for old, news in arrows.items() for new, movers in news.items()},
        **{(str(old), "[*]"): None for old in arrows if old.final},
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in _LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_every_kind_of_message_is_in_the_drawing_and_in_the_table() -> None:
    drawn = re.findall(r"^    (\w+)  ", message.__doc__ or "", re.MULTILINE)
    page = (ROOT / "docs" / "explanation" / "cluster.md").read_text(encoding="utf-8")

    assert drawn == [kind.rpartition(".")[2] for kind in message.MessageKind]
    assert re.findall(r"^\| `(io\.cis\.[\w.]+)` \|", page, re.MULTILINE) == list(message.MessageKind)


def test_every_module_that_the_way_of_a_dag_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "the-way-of-a-dag.md").read_text(encoding="utf-8")
    packages = "|".join(path.parent.name for path in (ROOT / "src" / "cis").glob("*/__init__.py"))
    named = re.findall(rf"`((?:{packages})/[\w/.]*)`", page)

    assert named
    assert [name for name in named if not (ROOT / "src" / "cis" / name).exists()] == []


def test_every_module_that_a_package_names_in_its_docstring_exists() -> None:
    missing = []
    for init in (ROOT / "src" / "cis").glob("*/**/__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        named = re.findall(r"``([a-z_]+)(?:\.\w+)?``", text) if init.parent.name != "errors" else ()  # names classes
        missing += [f"{init.parent.name}: {name}" for name in named if not list(init.parent.glob(f"{name}*"))]

    assert missing == []
