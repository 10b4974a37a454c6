"""References: what they name, what is refused, and how values take their place."""

from __future__ import annotations

from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.document import dag_from_plain
from cis.model.references import NoValueError, Reference, fill, malformed, references, text_of

PARAMS = {"x": {"default": "v"}, "list": {"default": ["a"]}}


def faults(*tasks: dict[str, Any], **fields: Any) -> dict[str, str]:
    """Return the faults of a DAG of these tasks, by place."""
    listed = [{"id": f"t{number}", "command": "true", **task} for number, task in enumerate(tasks)]
    try:
        dag_from_plain({"dag_id": "d", "params": PARAMS, "tasks": listed, **fields})
    except DocumentError as error:
        return {fault.place: fault.message for fault in error.faults}
    return {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("${params.x}", Reference("${params.x}", param="x")),
        ('${params.o.a["b c"][1]}', Reference('${params.o.a["b c"][1]}', param="o", way=("a", "b c", 1))),
        ("${tasks.a.outputs.status}", Reference("${tasks.a.outputs.status}", "a", "status")),
        ("${tasks.a.b.status}", Reference("${tasks.a.b.status}", "a.b")),
        ("${tasks.p.outputs.l[0].n}", Reference("${tasks.p.outputs.l[0].n}", "p", "l", way=(0, "n"))),
        ("${run.id}", Reference("${run.id}")),
    ],
)
def test_a_reference_names_one_thing_and_the_way_into_it(text: str, named: Reference) -> None:
    assert list(references([{"k": f"a {text} b"}])) == [named]
    assert list(malformed(text)) == []


@pytest.mark.parametrize(
    "text",
    ["${params.}", "${params.a b}", "${params.x[-1]}", "${tasks.a.output.x}", "${run.now}", "${env.X}", "${params.x"],
)
def test_what_only_begins_like_one_is_told(text: str) -> None:
    assert list(malformed(f"a {text} b")) != []
    assert list(malformed(f"$${text[1:]}")) == []


def test_one_reference_alone_keeps_its_type_and_within_a_longer_string_it_is_text() -> None:
    values = {"n": 4, "list": ["ü", {"k": None}], "none": None, "yes": True}

    def lookup(one: Reference) -> Any:
        return values[one.param or ""]

    whole = {name: fill(f"${{params.{name}}}", lookup) for name in values}
    parts = [fill(f"<${{params.{name}}}>", lookup) for name in values]

    assert whole == values
    assert parts == ["<4>", '<["ü",{"k":null}]>', "<>", "<true>"]
    assert [text_of(value) for value in values.values()] == ["4", '["ü",{"k":null}]', "", "true"]


def test_what_a_value_holds_is_never_filled_in() -> None:
    assert fill("${params.a}-${params.b}", lambda one: "${params.b} $${run.id}" if one.param == "a" else "B") == (
        "${params.b} $${run.id}-B"
    )


@pytest.mark.parametrize(
    ("way", "value", "why"),
    [
        ("[2]", [1, 2], "has 2 items"),
        (".a", [1], "is a list, not an object"),
        ("[0]", {"a": 1}, "is an object, not a list"),
        (".a.b", {"a": None}, ".a is null"),
        (".a", {"b": 1}, "has no 'a' (it has: b)"),
        (".a", "text", "is text"),
    ],
)
def test_a_way_that_leads_nowhere_is_told(way: str, value: Any, why: str) -> None:
    with pytest.raises(NoValueError) as told:
        fill(f"${{params.x{way}}}", lambda _: value)

    assert why in str(told.value)


def test_an_output_that_is_json_written_in_a_line_may_be_reached_into() -> None:
    assert fill("${tasks.a.outputs.o.k[0]}", lambda _: '{"k": [5]}') == 5


def test_parameters_may_stand_where_no_shell_reads_them() -> None:
    fine = faults(
        {"env": {"A": "${params.x}"}, "cwd": "/tmp/${params.x}"},
        {"command": ["echo", "${params.x}", "${run.id}"], "depends_on": "t0"},
        {"command": ["bash", "-c", 'echo "$1"', "sh", "${params.x}"]},
        env={"B": "${params.x}"},
        defaults={"env": {"C": "${run.id}"}, "cwd": "${params.x}"},
    )

    assert fine == {}


@pytest.mark.parametrize(
    ("task", "place"),
    [
        ({"command": "echo ${params.x}"}, "tasks[0].command"),
        ({"command": "print(1) # ${run.id}", "shell": "python3"}, "tasks[0].command"),
        ({"command": ["sh", "-c", "echo ${params.x}"]}, "tasks[0].command[2]"),
        ({"command": ["env", "A=1", "/bin/bash", "-euc", "echo ${params.x}"]}, "tasks[0].command[4]"),
        ({"command": "true", "shell": "bash ${params.x}"}, "tasks[0].shell"),
        ({"command": None, "skill": "shell", "params": {"command": "echo ${params.x}"}}, ""),
    ],
)
def test_what_a_shell_reads_as_code_never_holds_one(task: dict[str, Any], place: str) -> None:
    assert set(faults(task)) == ({place} if place else set())  # skills are asked when a DAG is accepted


def test_a_reference_to_nothing_is_refused_with_the_nearest_that_there_is() -> None:
    found = faults({"env": {"A": "${params.lits}", "B": "${tasks.t1.status}", "C": "${tasks.t9.outputs.v}"}}, {})

    assert "did you mean 'list'?" in found["tasks[0].env.A"]
    assert "add it to depends_on" in found["tasks[0].env.B"]
    assert "does not exist" in found["tasks[0].env.C"]


def test_a_secret_may_be_named_by_a_parameter_and_by_nothing_else() -> None:
    assert faults({"secrets": {"PW": "${params.x}"}}) == {}
    assert set(faults({"secrets": {"PW": "a-${params.x}"}})) == {"tasks[0].secrets"}
    assert set(faults({"secrets": ["${params.x}"]})) == {"tasks[0].secrets"}
    assert set(faults({"secrets": {"PW": "${params.y}"}})) == {"tasks[0].secrets.PW"}
