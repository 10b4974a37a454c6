"""Documents: what is read, in each notation, and every refusal with its place."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import DocumentError, DocumentTooLargeError, MalformedDocumentError
from cis.model.dag import Backoff, DagSpec, OnLost, TaskSpec
from cis.model.document import dag_from_plain, parse_dag, with_head
from cis.model.formats import Format, dump_document
from cis.model.schema import dag_schema
from cis.model.scope import Scope, ScopeType
from cis.model.states import Priority

FULL = """
dag_id: proj-a-nightly
scope: project:proj-a
target_node: node-1
priority: Urgent
description: text
env: {LANG: C.UTF-8, RELEASE: 1.10, DEBUG: true}
max_parallel: 4
defaults: {max_retries: 1, retry_delay: 500ms, timeout: 1h}
tasks:
  - id: fetch
    command: [git, fetch]
  - id: compile
    command: make all
    depends_on: [fetch]
    env: {PROJECT_ID: proj-a, FROM: "${tasks.fetch.outputs.ref}"}
    cwd: src
    timeout: 10m
    max_retries: 2
    retry_delay: 5s
    retry_backoff: exponential
    on_lost: fail
    max_losses: 0
  - id: report
    skill: http
    params: {url: "http://127.0.0.1:8000/done"}
    deps: [compile]
    type: skill
"""


def with_tasks(*tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a plain document of *tasks*."""
    return {"dag_id": "d", "tasks": list(tasks), **fields}


def task(task_id: Any = "a", **fields: Any) -> dict[str, Any]:
    """Return a plain task."""
    return {"id": task_id, "command": "true", **fields}


def refused(document: Any, **options: Any) -> DocumentError:
    """Return the error with which *document* is refused."""
    data = document if isinstance(document, bytes) else document.encode() if isinstance(document, str) else None
    with pytest.raises(DocumentError) as caught:
        if data is None:
            dag_from_plain(document)
        else:
            parse_dag(data, **options)
    return caught.value


def test_every_field_of_the_contract_is_read() -> None:
    spec = parse_dag(FULL.encode())

    assert spec == DagSpec(
        dag_id="proj-a-nightly",
        scope=Scope(ScopeType.PROJECT, "proj-a"),
        target_node="node-1",
        priority=Priority.CRITICAL,
        description="text",
        env={"LANG": "C.UTF-8", "RELEASE": "1.10", "DEBUG": "true"},
        max_parallel=4,
        tasks=(
            TaskSpec(id="fetch", command=("git", "fetch"), timeout_s=3600, max_retries=1, retry_delay_s=0.5),
            TaskSpec(
                id="compile",
                command="make all",
                depends_on=("fetch",),
                env={"PROJECT_ID": "proj-a", "FROM": "${tasks.fetch.outputs.ref}"},
                cwd="src",
                timeout_s=600,
                max_retries=2,
                retry_delay_s=5,
                retry_backoff=Backoff.EXPONENTIAL,
                on_lost=OnLost.FAIL,
                max_losses=0,
            ),
            TaskSpec(
                id="report",
                skill="http",
                params={"url": "http://127.0.0.1:8000/done"},
                depends_on=("compile",),
                timeout_s=3600,
                max_retries=1,
                retry_delay_s=0.5,
            ),
        ),
    )


@pytest.mark.parametrize("notation", list(Format))
def test_a_dag_round_trips_through_every_notation_named_or_found_out(notation: Format) -> None:
    spec = parse_dag(FULL.encode())
    text = dump_document(spec.to_dict(), notation).encode()

    assert parse_dag(text, format=notation) == spec
    assert parse_dag(text) == spec
    assert DagSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
scalars = st.one_of(
    texts, st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
)
env = st.dictionaries(
    st.from_regex(r"[A-Z]{1,8}", fullmatch=True), texts.filter(lambda text: "${tasks." not in text), max_size=3
)


@given(
    description=texts,
    variables=env,
    params=st.dictionaries(texts.filter(bool), scalars | st.lists(scalars, max_size=3), max_size=4),
    notation=st.sampled_from(list(Format)),
)
def test_any_text_survives_every_notation(
    description: str, variables: dict[str, str], params: dict[str, Any], notation: Format
) -> None:
    """Not least what a notation could take for a number, a boolean, a date or a comment."""
    spec = dag_from_plain(
        with_tasks({"id": "a", "skill": "x", "params": params}, description=description, env=variables)
    )

    assert parse_dag(dump_document(spec.to_dict(), notation).encode("utf-8")) == spec


@pytest.mark.parametrize("text", ["yes", "on", "1:30", "2024-01-01", "0777x", "1_000"])
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str) -> None:
    spec = parse_dag(f"dag_id: d\ndescription: {text}\ntasks: [{{id: a, command: 'true'}}]".encode())

    assert spec.description == text


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"# nothing\n---\n", "is empty"),
        (b'{ "dag_id": "d" "x": 1 }', "not JSON"),
        (b"[[tasks]]\nid = \n", "not TOML"),
        (b"\x7fELF\0\0", "binary"),
        (b"\xff\xfe\x00", "binary"),
        (b"dag_id: \xe9", "not UTF-8"),
        (b"[1, 2]", "is a list"),
        (b"hello", "single value"),
        (b"a: [1", "not YAML"),
        (b'{"a": ', "not JSON"),
    ],
)
def test_what_is_no_mapping_in_a_known_notation_is_malformed(document: bytes, words: str) -> None:
    error = refused(document)

    assert isinstance(error, MalformedDocumentError)
    assert words in str(error)


@pytest.mark.parametrize(
    "text",
    [
        'dag_id = "d"\ndescription = "a: b"\n[[tasks]]\nid = "a"\ncommand = "x: y"\n',
        'dag_id = "d"  # no: yaml\ndescription = "a: b"\ntasks = [{id = "a", command = "x: y"}]\n',
        '# a: b\n\ndag_id="d"\ndescription="a: b"\ntasks=[{id="a", command="x: y"}]\n',
        '{dag_id: d, description: "a: b", tasks: [{id: a, command: "x: y"}]}',
        '{ "dag_id": "d", "description": "a: b", "tasks": [{"id": "a", "command": "x: y"}]}',
        '"dag_id": d\ndescription: "a: b"\ntasks: [{id: a, command: "x: y"}]',
    ],
)
def test_the_notation_is_found_out_even_where_two_look_alike(text: str) -> None:
    spec = parse_dag(text.encode())

    assert (spec.dag_id, spec.description, spec.tasks[0].command) == ("d", "a: b", "x: y")


def test_sixteen_mebibytes_and_one_byte_are_too_large_and_one_less_is_not() -> None:
    limit = 16 << 20
    text = json.dumps(with_tasks(task())).encode()

    assert isinstance(refused(text + b" " * (limit + 1 - len(text))), DocumentTooLargeError)
    assert parse_dag(text + b" " * (limit - len(text))).dag_id == "d"


@pytest.mark.parametrize(
    "document", ["[" * 100_000, '{"a":' * 100_000, "a: " + "{a: " * 500, "- " * 500, "x = " + "[" * 100_000]
)
def test_deep_nesting_is_refused_and_nothing_overflows(document: str) -> None:
    assert "nested" in str(refused(document)) or "not" in str(refused(document))


def test_aliases_that_blow_up_are_refused_at_once_and_in_little_memory() -> None:
    names = [f"n{number}" for number in range(40)]
    lines = [f"{names[0]}: &{names[0]} [x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in pairwise(names)]
    tracemalloc.start()
    started_s = time.monotonic()
    error = refused("\n".join(lines))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "blow it up" in str(error)
    assert peak < 20_000_000
    assert time.monotonic() - started_s < 5


def test_an_alias_may_stand_for_what_several_tasks_share() -> None:
    text = (
        "dag_id: d\ntasks:\n- &t {id: a, command: x, env: &e {A: b}}\n- {<<: *t, id: c}\n- {id: d, command: y, env: *e}"
    )
    spec = parse_dag(text.encode())

    assert [(one.id, one.command, dict(one.env)) for one in spec.tasks] == [
        ("a", "x", {"A": "b"}),
        ("c", "x", {"A": "b"}),
        ("d", "y", {"A": "b"}),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("dag_id: a\ndag_id: b\ntasks: [{id: x, command: y}]", "dag_id (line 2)"),
        ('{"dag_id": "a", "dag_id": "b", "tasks": []}', "dag_id"),
        ('{"dag_id": "a", "tasks": [{"id": "x"}, {"id": "y", "id": "z"}]}', "tasks[1].id"),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, place: str) -> None:
    error = refused(text)

    assert place in str(error)
    assert "twice" in str(error)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused_in_yaml(number: str) -> None:
    text = f"dag_id: d\ntasks: [{{id: a, skill: x, params: {{n: {number}}}}}]"

    assert "tasks[0].params.n (line 2): is not a finite number" in str(refused(text))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_in_json(number: str) -> None:
    text = '{"dag_id": "d", "tasks": [{"id": "a", "skill": "x", "params": {"n": NUMBER}}]}'.replace("NUMBER", number)

    assert "tasks[0].params.n: is not a finite number" in str(refused(text))


@pytest.mark.parametrize("count", [1, 2, 3, 10_000])
def test_a_cycle_is_spelled_out(count: int) -> None:
    tasks = [task(f"t{number}", depends_on=[f"t{(number + 1) % count}"]) for number in range(count)]
    message = str(refused(with_tasks(*tasks)))

    if count == 1:
        assert "task 't0' depends on itself" in message
    elif count <= 3:
        assert " -> ".join([f"t{number}" for number in range(count)] + ["t0"]) in message
    else:
        assert "t0 -> t1 -> t2" in message
        assert "(10,000 tasks)" in message


@pytest.mark.parametrize("bad", ["..", "a..b", "a/b", "/etc", "a\0b", "a\nb", "x" * 129, "", "-a", ".a", "é", "a b"])
def test_ids_that_could_leave_their_place_are_refused_everywhere(bad: str) -> None:
    assert refused({"dag_id": bad, "tasks": [task()]}).faults[0].place == "dag_id"
    assert refused(with_tasks(task(bad))).faults[0].place == "tasks[0].id"
    assert refused(with_tasks(task(), scope={"type": "project", "id": bad})).faults[0].place == "scope"
    assert refused(with_tasks(task(), target_node=bad)).faults[0].place == "target_node"


def test_all_faults_are_reported_in_one_go_each_with_its_place() -> None:
    document = with_tasks(
        task("a", depend_on=["b"], timeout="soon"),
        {"id": "a"},
        task("c", skill="x", depends_on=["c", "zz"], env={"A": None, "CIS_X": "1"}, max_retries=-1),
        priority="hihg",
        max_paralel=2,
    )
    faults = {fault.place: fault.message for fault in refused(document).faults}

    assert set(faults) == {
        "tasks[0].depend_on",
        "tasks[0].timeout",
        "tasks[1]",
        "tasks[1].id",
        "tasks[2]",
        "tasks[2].depends_on[0]",
        "tasks[2].depends_on[1]",
        "tasks[2].env.A",
        "tasks[2].env.CIS_X",
        "tasks[2].max_retries",
        "priority",
        "max_paralel",
    }
    assert "'depends_on'" in faults["tasks[0].depend_on"]
    assert "'max_parallel'" in faults["max_paralel"]
    assert "'high'" in faults["priority"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"command": "echo ${tasks.a.outputs.x}", "depends_on": ["a"]}, "never pasted into a command"),
        ({"command": ["sh", "-c", "echo ${tasks.a.outputs.x}"], "depends_on": ["a"]}, "never pasted into a command"),
        ({"env": {"X": "${tasks.a.outputs.x}"}}, "add it to depends_on"),
        ({"env": {"X": "${tasks.q.outputs.x}"}}, "does not exist"),
        ({"cwd": "${tasks.a.output.x}", "depends_on": ["a"]}, "not as ${tasks.ID.outputs.NAME}"),
    ],
)
def test_references_to_outputs_stand_only_where_no_shell_reads_them(extra: dict[str, Any], words: str) -> None:
    assert words in str(refused(with_tasks(task("a"), task("b") | extra)))


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("global", "global"),
        ("user:u1", "user:u1"),
        ({"type": "global"}, "global"),
        ({"type": "project", "id": "p"}, "project:p"),
        ({"type": "project", "project_id": "p"}, "project:p"),
        ({"type": "user", "user_id": "u"}, "user:u"),
        ({"type": "type", "dag_type": "t"}, "type:t"),
    ],
)
def test_every_spelling_of_a_scope_is_read(scope: Any, expected: str) -> None:
    document = with_tasks(task(), scope=scope)

    assert str(dag_from_plain(document).scope) == expected
    jsonschema.validate(document, dag_schema())


@pytest.mark.parametrize(
    "scope",
    [
        "project",
        "project:",
        "team:x",
        5,
        {"type": "user", "project_id": "p"},
        {"id": "x"},
        {"type": "global", "id": "x"},
    ],
)
def test_a_scope_that_is_none_is_refused(scope: Any) -> None:
    assert refused(with_tasks(task(), scope=scope)).faults[0].place == "scope"


@pytest.mark.parametrize(("kind", "has"), [("shell", {"command": "x"}), ("skill", {"skill": "x"})])
def test_a_type_is_accepted_where_it_agrees_and_refused_where_it_does_not(kind: str, has: dict[str, str]) -> None:
    other = "skill" if kind == "shell" else "shell"

    assert dag_from_plain(with_tasks({"id": "a", "type": kind} | has)).tasks[0].id == "a"
    assert "does not agree" in str(refused(with_tasks({"id": "a", "type": other} | has)))


def test_a_hundred_thousand_tasks_are_read_and_one_more_is_refused() -> None:
    tasks = [{"id": f"t{number}", "command": "true"} for number in range(100_000)]

    assert len(parse_dag(json.dumps(with_tasks(*tasks)).encode()).tasks) == 100_000
    assert "100,000 at most" in str(refused(with_tasks(*tasks, task("more"))))


def test_the_json_schema_accepts_what_is_accepted_and_refuses_unknown_fields() -> None:
    schema = dag_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(FULL), schema)

    for wrong in (
        with_tasks(task(depend_on=[])),
        with_tasks({"id": "a"}),
        with_tasks(task(skill="x")),
        {"dag_id": "d"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("key", ['"<<"', "'<<'", "!!str <<"])
def test_a_key_that_looks_like_a_merge_but_stands_in_quotes_is_one_like_any_other(key: str) -> None:
    text = f"dag_id: d\ntasks:\n- id: a\n  skill: x\n  params: {{{key}: 7}}\n"
    spec = parse_dag(text.encode())

    assert spec.tasks[0].params == {"<<": 7}
    assert parse_dag(dump_document(spec.to_dict(), Format.YAML).encode()) == spec


GIVEN = [
    {"scope": "user:u1", "target_node": "node-9", "priority": "Urgent"},
    {"scope": "global"},
    {"priority": "low"},
    {"scope": "team:x", "target_node": "a b", "priority": "soon"},
    {"scope": "", "priority": ""},
    {"target_node": ""},
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_what_is_given_beside_a_document_is_read_and_refused_as_in_it(given: dict[str, str]) -> None:
    plain = with_tasks(task(), scope="project:p", target_node="node-1", priority="high", description="kept")

    assert outcome(lambda: with_head(dag_from_plain(plain), given, source="flags")) == outcome(
        lambda: dag_from_plain({**plain, **given}, source="flags")
    )


def outcome(read: Callable[[], DagSpec]) -> DagSpec | str:
    """Return what is read, or why it is refused."""
    try:
        return read()
    except DocumentError as error:
        return str(error)


def test_fields_that_begin_with_x_are_ignored_and_hold_what_anchors_name() -> None:
    text = b"""
x-env: &env {A: "1"}
dag_id: d
defaults: {x-note: [], max_retries: 1}
tasks: [{id: a, command: "true", env: *env, x-owner: me}]
"""
    spec = parse_dag(text)

    assert spec == dag_from_plain(
        {"dag_id": "d", "defaults": {"max_retries": 1}, "tasks": [{"id": "a", "command": "true", "env": {"A": "1"}}]}
    )
    jsonschema.validate(yaml.safe_load(text), dag_schema())
    with pytest.raises(DocumentError, match="X-note"):
        parse_dag(text.replace(b"x-note", b"X-note"))


def test_the_cwd_of_the_dag_is_that_of_tasks_for_which_nothing_nearer_says_one() -> None:
    tasks = [{"id": "a", "command": "true"}, {"id": "b", "command": "true", "cwd": "own"}]

    assert [task.cwd for task in dag_from_plain({"dag_id": "d", "cwd": "dag", "tasks": tasks}).tasks] == ["dag", "own"]
    nearer = dag_from_plain({"dag_id": "d", "cwd": "dag", "defaults": {"cwd": "shared"}, "tasks": tasks})
    assert [task.cwd for task in nearer.tasks] == ["shared", "own"]
    with pytest.raises(DocumentError, match=r"cwd.*is for every task"):
        dag_from_plain({"dag_id": "d", "cwd": "${tasks.a.outputs.x}", "tasks": tasks})
    with pytest.raises(DocumentError, match=r"cwd.*empty"):
        dag_from_plain({"dag_id": "d", "cwd": " ", "tasks": tasks})
