"""A field is declared once; the document, the JSON Schema, the stored form, the wire and the reference follow from that."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from cis.model.dag import DAG_FORM, TASK_FORM, DagSpec, TaskSpec
from cis.model.document import dag_from_plain
from cis.model.fields import Declared, StoredForm, declared
from cis.model.kinds import DURATION, FLAG, ID, TASK_IDS, count, one_of
from cis.model.message import wire_fields
from cis.model.schema import dag_schema

SCHEMA = dag_schema()
REFERENCE = (Path(__file__).parents[2] / "docs/reference/document.md").read_text(encoding="utf-8")
OTHER_SPELLINGS = {"type", "deps"}

# A value of each field that is not its default, as a document spells it.
TASK: dict[str, Any] = {
    "id": "a",
    "shell": "bash -euo pipefail",
    "skill": "shell",
    "params": {"command": "true"},
    "depends_on": ["b"],
    "when": "tasks.b.status == 'completed'",
    "trigger_rule": "all_done",
    "env": {"A": "1"},
    "secrets": {"TOKEN": "OTHER"},
    "cwd": "src",
    "max_retries": 2,
    "retry_delay": 0.5,
    "retry_backoff": "exponential",
    "timeout": 60.0,
    "on_lost": "fail",
    "max_losses": 0,
    "stdin": {"file": "in.csv"},
    "success_codes": [0, 24],
    "skip_codes": [99],
    "retry_codes": [75],
    "allow_failure": {"exit_codes": [1, 2]},
    "output": "version",
    "leave": True,
    "matrix": {"os": ["linux"]},
    "max_parallel": 2,
    "fail_fast": True,
}
DAG: dict[str, Any] = {
    "dag_id": "d",
    "scope": "project:p",
    "target_node": "node-1",
    "priority": "high",
    "description": "text",
    "env": {"A": "1"},
    "params": {"p": {"type": "string"}},
    "outputs": {"o": "${tasks.a.outputs.x}"},
    "max_parallel": 2,
    "timeout": 7200.0,
    "labels": ["gpu"],
    "expires": 3600.0,
    "spread": True,
    "handlers": {"exit": {"command": "true", "timeout": 600.0}},
}
FULL = DAG | {"tasks": [TASK, {"id": "b", "command": ["true", "x"], "foreach": ["a"]}]}


class Colour(StrEnum):
    """What a field may be one of."""

    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A spec with fields of some kinds."""

    id: str = field(metadata=declared(ID))
    after: tuple[str, ...] = field(default=(), metadata=declared(TASK_IDS))
    pause_s: float = field(default=1.0, metadata=declared(DURATION))
    colour: Colour = field(default=Colour.RED, metadata=declared(one_of(Colour)))
    size: int = field(default=1, metadata=declared(count(1, 9)))
    keep: bool = field(default=False, metadata=declared(FLAG))
    found: str = ""


FORM = StoredForm(Sample)


def rows(heading: str) -> dict[str, str]:
    """Return the rows of a table of the reference, by each name in their first cells."""
    table = REFERENCE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \| (.+) \|$", table, re.MULTILINE)
    return {name: text for names, text in cells for name in re.findall(r"`(\w+)`", names)}


def spelled(one: Declared) -> list[str]:
    """Return what the reference says of a field's default and choices."""
    default = one.default
    if isinstance(default, bool | int | StrEnum):
        default = str(default).lower() if isinstance(default, bool) else f"{default}"
    choices = [f"`{choice}`" for choice in one.kind.schema.get("enum", ())]
    return [*choices, *([default] if isinstance(default, str) and default else [])]


def test_what_is_declared_is_stored_under_its_name_unless_it_is_the_default() -> None:
    bare = Sample(id="a", found="no field of a document")
    other = Sample(id="a", after=("b",), pause_s=2.5, colour=Colour.GREEN, size=3, keep=True)

    assert FORM.plain(bare) == {"id": "a"}
    assert FORM.plain(other) == {"id": "a", "after": ["b"], "pause": 2.5, "colour": "green", "size": 3, "keep": True}


def test_what_was_stored_is_read_back_and_names_that_are_not_known_are_passed_over() -> None:
    spec = Sample(id="a", after=("b",), pause_s=2.5, colour=Colour.GREEN, size=3, keep=True)

    assert Sample(**FORM.arguments(json.loads(json.dumps(FORM.plain(spec))) | {"later": 1})) == spec
    with pytest.raises(KeyError):
        FORM.arguments({"size": 3})


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, None),
        ({"id": "../a"}, "id"),
        ({"after": (1,)}, "after"),
        ({"pause_s": -1.0}, "pause"),
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"keep": 1}, "keep"),
    ],
)
def test_a_value_of_another_kind_is_found_by_the_name_of_its_field(values: dict[str, Any], wrong: str | None) -> None:
    assert FORM.wrong_field(Sample(**{"id": "a"} | values)) == wrong


def test_every_field_of_a_document_is_declared_and_every_declared_one_is_read_and_stored() -> None:
    spec = dag_from_plain(FULL)

    assert spec.to_dict() == FULL
    assert DagSpec.from_dict(json.loads(json.dumps(FULL))) == spec
    assert {*TASK, "command", "foreach"} == {one.name for one in TASK_FORM.fields}
    assert set(DAG) == {one.name for one in DAG_FORM.fields}


def test_the_attributes_of_specs_are_the_declared_fields_and_the_tasks() -> None:
    assert {one.attribute for one in TASK_FORM.fields} == set(TaskSpec.__slots__)
    assert {*(one.attribute for one in DAG_FORM.fields), "tasks"} == set(DagSpec.__slots__)


def test_the_schema_has_the_declared_fields_and_what_their_kinds_say() -> None:
    parts = SCHEMA["$defs"]
    shared = {one.name for one in TASK_FORM.fields if one.shared}

    assert set(parts["Tries"]["properties"]) == shared
    assert set(parts["TaskDocument"]["properties"]) == {one.name for one in TASK_FORM.fields} | OTHER_SPELLINGS
    assert set(SCHEMA["properties"]) == {one.name for one in DAG_FORM.fields} | {"cwd", "defaults", "tasks"}
    for one, part in [
        *((one, parts["TaskDocument"]) for one in TASK_FORM.fields),
        *((one, SCHEMA) for one in DAG_FORM.fields),
    ]:
        said = dict(one.kind.schema) | {
            key: value
            for key, value in (("description", one.description), ("examples", one.examples))
            if value is not None
        }
        assert said.items() <= part["properties"][one.name].items()
        assert (one.name in part["required"]) is one.required


def test_every_declared_field_travels_and_durations_with_their_unit() -> None:
    newer = (
        "when",
        "trigger_rule",
        "stdin",
        "success_codes",
        "skip_codes",
        "retry_codes",
        "allow_failure",
        "output",
        "foreach",
        "matrix",
        "max_parallel",
        "fail_fast",
    )
    task = {name: value for name, value in TASK.items() if name not in newer}
    without = ("params", "timeout", "outputs", "handlers")
    old = {name: value for name, value in FULL.items() if name not in without} | {"tasks": [task]}
    sent = wire_fields(old)

    assert wire_fields(FULL) is None  # a word that not all nodes know goes beside the message, where they refuse it
    assert sent is not None
    assert sent["tasks"][0] == task | {"retry_delay": "0.5s", "timeout": "60.0s"}
    assert {*sent, "dag_id", "scope", "target_node", "priority"} == set(old)
    assert sent["expires"] == "3600.0s"


def test_the_reference_has_a_row_for_each_declared_field_with_its_default_and_choices() -> None:
    dag, task = rows("The DAG"), rows("A task")

    assert set(task) == {one.name for one in TASK_FORM.fields} | OTHER_SPELLINGS
    assert set(dag) == {one.name for one in DAG_FORM.fields} | {"cwd", "defaults", "tasks"}
    told = {*re.findall(r"`(\w+)`", dag["defaults"])}
    assert told == {one.name for one in TASK_FORM.fields if one.shared}
    assert [one.name for one in TASK_FORM.fields if not all(text in task[one.name] for text in spelled(one))] == []
