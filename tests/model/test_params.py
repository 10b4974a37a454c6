"""How parameters are declared, and which values they may be given: all faults at once, each with its place."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.document import dag_from_plain, parse_request
from cis.model.params import Typed, declaration_faults, param_values

TASKS = [{"id": "t", "command": "true"}]


def faults_of(declared: Any) -> dict[str, str]:
    """Return the faults of declarations, by place."""
    with pytest.raises(DocumentError) as refused:
        dag_from_plain({"dag_id": "d", "params": declared, "tasks": TASKS})
    return {fault.place: fault.message for fault in refused.value.faults}


def refused(declared: Any, given: Any) -> dict[str, str]:
    """Return why values are refused, by place."""
    assert list(declaration_faults(declared)) == []
    with pytest.raises(DocumentError) as caught:
        param_values(declared, given)
    return {fault.place: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize("kind", [{}, [], ["string"], 5, True])
def test_a_type_that_is_no_text_is_a_fault_also_of_what_items_are(kind: Any) -> None:
    found = faults_of(
        {"one": {"type": kind}, "many": {"type": "array", "items": {"items": {"type": kind}, "type": "array"}}}
    )

    assert set(found) == {"params.one.type", "params.many.items.items.type"}
    assert "is not one of string" in found["params.one.type"]


def test_each_fault_of_a_declaration_is_told_with_its_place() -> None:
    found = faults_of(
        {
            "kind": {"type": "strin"},
            "word": {"type": "string", "defualt": "x"},
            "number": {"type": "integer", "default": "x", "pattern": "x"},
            "choice": {"enum": []},
            "wrong_choice": {"type": "integer", "enum": [1, "2"]},
            "pattern": {"pattern": "(?=x)"},
            "nothing": {"default": None},
            "items": {"type": "array", "items": {"type": "integer"}, "default": [1, "a"]},
            "Kind": {},
            "1st": {},
            "file": {"type": "file"},
            "bare": "1.0",
        }
    )

    assert set(found) == {
        "params.kind.type",
        "params.word.defualt",
        "params.number.pattern",
        "params.choice.enum",
        "params.wrong_choice.enum[1]",
        "params.pattern.pattern",
        "params.nothing.default",
        "params.items.default[1]",
        "params.Kind",
        "params.1st",
        "params.file.type",
        "params.bare",
    }
    assert "did you mean 'string'?" in found["params.kind.type"]
    assert "did you mean 'default'?" in found["params.word.defualt"]
    assert "look-around" in found["params.pattern.pattern"]
    assert "CIS_PARAM_KIND" in found["params.Kind"]


def test_all_that_is_wrong_with_values_is_told_at_once_with_the_nearest_names() -> None:
    declared = {
        "version": {"type": "string", "pattern": r"^\d+\.\d+$"},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "env": {"enum": ["staging", "production"]},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 3}},
        "token": {"type": "secret"},
        "missing": {"type": "boolean"},
    }
    found = refused(
        declared,
        {"version": "1", "count": 6, "env": "prodction", "names": ["a", "long", 3], "token": "s3cr et", "versoin": 1},
    )

    assert found == {
        "params.versoin": "there is no such parameter; did you mean 'version'?",
        "params.version": "'1' does not match the pattern '^\\\\d+\\\\.\\\\d+$'",
        "params.count": "must be at most 5, not 6",
        "params.env": '"prodction" is not one of "staging", "production"; did you mean \'production\'?',
        "params.names[1]": "has 4 characters; 3 at most",
        "params.names[2]": "must be a string, not a number",
        "params.token": "must be the name of a secret (ASCII letters, digits and '_'), never its value",
        "params.missing": "is required (true or false); -p missing=VALUE gives it",
    }


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "4", "4"),
        ("string", "", ""),
        ("integer", " 4", 4),
        ("integer", "-04", -4),
        ("number", "4", 4),
        ("number", "1e3", 1000.0),
        ("boolean", "True", True),
        ("array", '["a", 1]', ["a", 1]),
        ("object", '{"a": null}', {"a": None}),
        ("secret", "DB_PASSWORD", "DB_PASSWORD"),
    ],
)
def test_what_is_typed_is_read_as_its_type_says(kind: str, text: str, value: object) -> None:
    found = param_values({"x": {"type": kind}}, {"x": Typed(text)})["x"]

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "4.5"),
        ("integer", "4x"),
        ("integer", "9" * 20),
        ("number", "nan"),
        ("number", "1e999"),
        ("boolean", "1"),
        ("array", "a,b"),
        ("array", '{"a": 1}'),
        ("object", '{"a": 1, "a": 2}'),
        ("object", "[" * 100_000),
    ],
)
def test_what_is_typed_and_is_none_of_its_type_is_refused(kind: str, text: str) -> None:
    assert set(refused({"x": {"type": kind}}, {"x": Typed(text)})) == {"params.x"}


@pytest.mark.parametrize("value", [True, "4", None, 4.5, [4], 2**63])
def test_a_value_of_another_type_is_no_whole_number(value: object) -> None:
    assert set(refused({"x": {"type": "integer"}}, {"x": value})) == {"params.x"}


def test_a_whole_number_may_be_written_with_a_point() -> None:
    value = param_values({"x": {"type": "integer"}}, {"x": 4.0})["x"]

    assert (value, type(value)) == (4, int)


def test_what_is_not_given_is_its_default_and_null_where_it_is_not_required() -> None:
    declared: dict[str, dict[str, Any]] = {
        "a": {"default": [1]},
        "b": {"required": False},
        "c": {"type": "string", "required": False},
    }

    assert param_values(declared, {"c": None}) == {"a": [1], "b": None, "c": None}


@pytest.mark.parametrize("text", ["x\0y", "\ud800", {"a": ["\0"]}, "x" * (1 << 20)])
def test_what_no_process_can_be_given_and_what_is_too_large_is_refused(text: object) -> None:
    kind = "object" if isinstance(text, dict) else "string"

    assert refused({"x": {"type": kind}}, {"x": text})


def test_a_pattern_takes_no_longer_than_its_text_is_long() -> None:
    started_s = time.process_time()
    refused({"x": {"pattern": "^(a+)+$"}}, {"x": "a" * 100_000 + "b"})

    assert time.process_time() - started_s < 5  # one that tracks back takes longer than the universe is old


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b'{"dag": {"dag_id": "d", "tasks": []}, "params": {}}', {"tasks"}),
        (b'{"dag": 5, "params": []}', {"dag", "params"}),
        (b'{"dag": "d", "parms": {}}', {"parms"}),
    ],
)
def test_a_request_with_parameters_has_its_faults_told(body: bytes, places: set[str]) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_request(body)

    assert {fault.place for fault in caught.value.faults} == places


def test_a_request_is_a_document_or_has_one_beside_parameters() -> None:
    document = b'{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}'
    bare, within = parse_request(document), parse_request(b'{"dag": %s, "params": {"a": 1}}' % document)
    by_id = parse_request(b"dag: nightly\nparams: {a: 1}\n")

    assert (bare.dag, bare.params) == (within.dag, {})
    assert (within.params, by_id) == ({"a": 1}, ("nightly", {"a": 1}))
