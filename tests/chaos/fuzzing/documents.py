"""Documents made to hurt, as bytes, and what has to hold for each: refused in our own words, or accepted for good."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import tomli_w
import yaml

from cis.engine.accept.submit import canonical_json
from cis.errors import CisError, DocumentError
from cis.importers.wfformat import dag_from_wfformat
from cis.model.dag import DagSpec
from cis.model.document import dag_from_plain, parse_dag
from cis.model.formats import Format, dump_document, load_document
from cis.model.graph import Graph
from cis.model.inference import infer_scope
from cis.model.message import document_of, wire_fields
from cis.store.port import read_spec
from tests.chaos.fuzzing.trees import changed, dag

MAX_WORDS = 600_000  # characters of an error: a hundred faults of four thousand at most, with their places
WORKFLOW: dict[str, Any] = {
    "name": "w",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [{"id": "a", "parents": [], "children": ["b"]}, {"id": "b", "parents": ["a"], "children": []}]
        },
        "execution": {
            "tasks": [
                {"id": "a", "runtimeInSeconds": 1.5, "command": {"program": "x", "arguments": ["-v"]}},
                {"id": "b"},
            ]
        },
    },
}
_ODD_LINES: dict[Format, tuple[str, ...]] = {
    Format.YAML: (
        "x: &a [1, 2]",
        "y: *a",
        "y: *nowhere",
        "<<: *a",
        "<<: {dag_id: z}",
        "<<: [1]",
        "<<: [{a: 1}, {a: 2}]",
        "a: !!python/object/apply:os.getpid []",
        "z: !!binary aGk=",
        "z: !!set {a, b}",
        "z: !!int '7'",
        "z: !!float 1e400",
        "z: !<tag:yaml.org,2002:null> ''",
        "%YAML 1.1",
        "---",
        "...",
        "? [a, b]\n: c",
        "? {a: 1}\n: c",
        "*a : 1",
        "a: &a [*a]",
        "dag_id: twice",
        "\tt: 1",
        "- x",
        "k: |\n  text\n   more",
        "k: >-\n  text",
        "k: 'x",
        "k: {a: [b, {c: d",
        "k: 0x" + "f" * 900,
        "k: " + "9" * 1200,
        "k: 1e999",
        "e: [" + "*a," * 40 + "]",
        "? ",
        ": ",
        "k: @x",
    ),
    Format.JSON: (
        '"dag_id": "twice",',
        '"x": 1e400,',
        '"x": NaN,',
        '"x": -Infinity,',
        '"x": "\\ud800",',
        '"\\udc00": 1,',
        '"x": ' + "9" * 5000 + ",",
        '"x": ' + "[" * 3000,
        '"x": ' + "[" * 120 + "]" * 120 + ",",
        "// no",
        '"x": 1,,',
        "}{",
        "'x': 1,",
        '"x": "\x01",',
    ),
    Format.TOML: (
        "x = 2024-01-01",
        "x = 2024-01-01T00:00:00Z",
        "x = 07:32:00",
        "x = 0x" + "f" * 5000,
        "x = " + "9" * 5000,
        "x = 1_000",
        "x = inf",
        "x = nan",
        "x = 1e400",
        "a.b.c.d.e = 1",
        ".".join("abcdefghijklmnopqrstuvwxyz") + " = 1",
        "x.y = 1\nx = 2",
        "[x]\n[x]",
        "[[tasks]]",
        "[tasks]",
        "[[tasks.env]]",
        'x = "\\ud800"',
        'x = """\ntext"""',
        "x = '''",
        "x = {a = {b = {c = 1}}}",
        "x = " + "[" * 400 + "]" * 400,
        "dag_id = 'twice'",
        '"" = 1',
        '"a b"."c" = 1',
    ),
}


def document(chance: Random) -> tuple[bytes, Format]:
    """Return a DAG that was changed at several places, written down in some notation, and then damaged, or not."""
    plain = changed(dag(chance), chance, times=chance.choice((0, 0, 1, 1, 2, 5)))
    notation = chance.choice(list(Format))
    text, notation = _written(plain, notation, chance)
    lines = text.split("\n")
    for _ in range(chance.choice((0, 0, 1, 2))):
        odd = chance.choice(_ODD_LINES[notation])
        place = chance.randint(0, len(lines))
        indent = " " * chance.choice((0, 0, 2, 4))
        lines[place:place] = [indent + line for line in odd.split("\n")]
    return _damaged("\n".join(lines), chance), notation


def _written(plain: Any, notation: Format, chance: Random) -> tuple[str, Format]:
    if notation is Format.TOML:
        try:
            return tomli_w.dumps(plain), notation
        except (TypeError, ValueError, AttributeError, RecursionError):
            notation = Format.JSON
    if notation is Format.YAML:
        try:
            flow = chance.choice((True, False, None))
            return yaml.dump(plain, allow_unicode=True, sort_keys=False, default_flow_style=flow), notation
        except (yaml.YAMLError, ValueError, RecursionError):
            notation = Format.JSON
    return json.dumps(plain, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 1))), notation


def _damaged(text: str, chance: Random) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    at, other = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    ways = (
        b"\xef\xbb\xbf" + data,
        text.encode("utf-16", "surrogatepass"),
        data.replace(b"\n", b"\r\n"),
        data.replace(b"\n", b"\r"),
        data.replace(b'"', b"'"),
        data[:at] + b"\0" + data[at:],
        data[:at],
        data[:at] + data[other:],
        data[:other] + data[at:],
        data[:at] + bytes([chance.randint(0, 255)]) + data[at + 1 :],
        data[:at] + data[at:other] * chance.randint(2, 50) + data[other:],
    )
    return chance.choice(ways) if chance.random() < 0.4 else data


def check(data: bytes, notation: Format | None = None) -> bool:
    """Return whether a document is accepted. Anything but our own errors, or an accepted one that does not last, raises."""
    try:
        spec = parse_dag(data, format=notation)
    except CisError as error:
        check_words(error)
        return False
    check_accepted(spec)
    return True


def check_workflow(plain: Any, *, commands: bool = False) -> bool:
    """As ``check``, of a tree that is taken for a recorded workflow."""
    if not isinstance(plain, dict):
        return False
    try:
        spec = dag_from_wfformat(plain, commands=commands)
    except CisError as error:
        check_words(error)
        return False
    check_accepted(spec)
    return True


def check_words(error: CisError) -> None:
    """Check that an error can be shown: bounded, text, and nothing that steers a terminal."""
    words = str(error)
    assert len(words.encode()) <= MAX_WORDS
    assert "\x1b" not in words
    if isinstance(error, DocumentError):
        assert error.faults


def check_accepted(spec: DagSpec) -> None:
    """Check what holds for every DAG: it is the same in each notation and in the database, and its graph has an order."""
    plain = spec.to_dict()
    for notation in Format:
        try:
            text = dump_document(plain, notation)
        except DocumentError:
            assert notation is Format.TOML
            assert "null" in json.dumps(plain)
            continue
        assert parse_dag(text.encode(), format=notation) == spec
    stored = canonical_json(spec)
    assert "\\u0000" not in json.dumps(plain).replace("\\\\", "")
    assert read_spec(stored) == spec
    assert canonical_json(read_spec(stored)) == stored
    assert len(Graph.of(spec.tasks).order()) == len(spec.tasks)
    try:
        infer_scope(spec)
    except CisError as error:
        check_words(error)
    _check_wire(spec, plain)


def _check_wire(spec: DagSpec, plain: dict[str, Any]) -> None:
    fields = wire_fields(plain)
    if fields is None:
        return
    head: dict[str, Any] = {"dag_id": spec.dag_id, "priority": str(spec.priority)}
    if spec.scope is not None:
        head |= {"scope": spec.scope.to_dict(), "scope_source": "explicit"}
    there = document_of({**json.loads(json.dumps(fields)), **head})
    document = {name: value for name, value in there.items() if value is not None}
    assert dag_from_plain(document) == replace(spec, target_node=None)


def check_plain(data: bytes) -> None:
    """Check a document's bytes in every notation, and as a recorded workflow."""
    for notation in (None, *Format):
        check(data, notation)
    try:
        tree = load_document(data)
    except CisError:
        return
    if tree.faults:
        return
    for commands in (False, True):
        check_workflow(tree.root, commands=commands)
