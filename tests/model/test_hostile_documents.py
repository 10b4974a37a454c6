"""Documents made to hurt: each is refused in bounded time, in bounded memory and with a message that can be shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from cis.errors import DocumentError
from cis.model.document import MAX_FAULTS, dag_from_plain, parse_dag
from cis.model.formats import Format

BOUND_S = 20.0
MANY = 30_000


def document(tasks: list[dict[str, Any]], **fields: Any) -> str:
    """Return a document of *tasks*."""
    return json.dumps({"dag_id": "d", "tasks": tasks, **fields})


def one_task(**fields: Any) -> str:
    """Return a document of one task with *fields*."""
    return document([{"id": "a", "skill": "x", **fields}])


def refused(text: str, notation: Format | None = None) -> DocumentError:
    """Return the error with which *text* is refused."""
    with pytest.raises(DocumentError) as caught:
        parse_dag(text.encode(), format=notation)
    return caught.value


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "an unknown dependency in each of many tasks": (
        lambda: document([{"id": f"task{n}", "command": "x", "depends_on": [f"tusk{n}"]} for n in range(MANY)]),
        "did you mean 'task0'",
    ),
    "an unknown reference in each of many tasks": (
        lambda: document(
            [{"id": f"t{n}", "command": "x", "env": {"A": f"${{tasks.q{n}.outputs.x}}"}} for n in range(MANY)]
        ),
        "'q0', which does not exist",
    ),
    "several faults in each of many tasks": (
        lambda: document([{"id": "..", "comand": "x", "timeout": "x", "max_retries": -1}] * MANY),
        "mend these first",
    ),
    "many unknown fields": (lambda: json.dumps({f"k{n}": 1 for n in range(MANY)}), "mend these first"),
    "many variables": (lambda: one_task(env={f"K{n}": 1 for n in range(MANY)}), "30,000 variables; 10,000 at most"),
    "many dependencies": (lambda: one_task(depends_on=["b"] * 100_001), "100,001 tasks; 100,000 at most"),
    "a long text behind many aliases": (
        lambda: f"x: &a {'y' * 100_000}\nz: [{','.join(['*a'] * 1000)}]",
        "aliases blow it up to more than 32 Mi characters",
    ),
    "very many values": (lambda: f"a: [{','.join('b' * 2_000_001)}]", "holds more than 2,000,000 values"),
    "a key of very many parts": (lambda: f"{'.'.join('a' * 50_000)} = 1", "a key of more than 16 parts"),
    "a key of many parts in a table in one line": (lambda: f"x = {{{'.'.join('a' * 5000)} = 1}}", "more than 16 parts"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_for_ever_is_refused_at_once(name: str) -> None:
    make, words = HOSTILE[name]
    text = make()
    started_s = time.process_time()
    error = refused(text)

    assert words in str(error)
    assert len(error.faults) <= MAX_FAULTS + 1
    assert time.process_time() - started_s < BOUND_S


def test_a_long_chain_may_refer_to_outputs_near_and_far_and_strangers_are_still_found() -> None:
    """Walking up from every task would be quadratic."""
    tasks: list[dict[str, Any]] = [{"id": "t0", "command": "x"}, {"id": "other", "command": "x"}]
    tasks += [
        {
            "id": f"t{n}",
            "command": "x",
            "depends_on": [f"t{n - 1}"],
            "env": {"NEAR": f"${{tasks.t{n - 1}.outputs.x}}", "FAR": f"${{tasks.t{n // 2}.outputs.x}}"},
        }
        for n in range(1, MANY)
    ]
    started_s = time.process_time()

    assert len(dag_from_plain({"dag_id": "d", "tasks": tasks}).tasks) == MANY + 1
    tasks[-1]["env"]["FAR"] = "${tasks.other.outputs.x}"
    error = refused(document(tasks))
    assert [(fault.place, fault.message) for fault in error.faults] == [
        (f"tasks[{MANY}].env.FAR", "refers to an output of 'other'; add it to depends_on")
    ]
    assert time.process_time() - started_s < BOUND_S


def test_a_reference_to_the_own_output_is_refused_as_such() -> None:
    assert "its own task" in str(refused(one_task(params={"a": "${tasks.a.outputs.x}"})))


LONG = "9" * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        one_task(timeout=LONG),
        document([{"id": "a", "command": "x"}], priority=LONG),
        document([{"id": "a", "command": "x"}], scope=LONG),
        document([{"id": "a", "command": "x"}], scope={"type": LONG}),
        document([{"id": "a", "command": "x"}], scope={LONG: "x"}),
        document([{"id": LONG, "command": "x"}]),
        one_task(**{LONG: 1}),
        one_task(env={LONG: 1}),
        one_task(retry_backoff=LONG),
        one_task(depends_on=[LONG]),
        f"a: !{LONG} b",
        f"{LONG}: a\n{LONG}: b",
        f"x = 1\n[{LONG}]\n[{LONG}]",
        json.dumps(LONG),
    ],
    ids=lambda text: str(text)[:60].replace(LONG[:20], ""),
)
def test_a_message_stays_short_however_long_what_it_is_about(text: str) -> None:
    assert all(len(str(fault)) < 5000 for fault in refused(text).faults)


@pytest.mark.parametrize(
    "text",
    [
        one_task(env={"\x1b[31mred\n": "1"}),
        one_task(**{"\x1b[31mred": "1"}),
        document([{"id": "\x1b[31m", "command": "x", "depends_on": ["\x1b[31m"]}]),
        document([{"id": "\x1b[31m", "command": "x", "type": "\x1b[31m"}]),
        '"\\e[31m": 1\n"\\e[31m": 2',
        'a: !<\\e[31m> "\\e[31m"\nb: "\\e"\n"\\e": *\\e',
    ],
)
def test_no_message_steers_a_terminal(text: str) -> None:
    assert all(str(fault).isprintable() for fault in refused(text).faults)


DIGITS = "1" + "0" * 400


@pytest.mark.parametrize("digits", [DIGITS, "1" + "0" * 5000], ids=["400 digits", "5,000 digits"])
@pytest.mark.parametrize(
    "text",
    [
        '{"dag_id": "d", "tasks": [{"id": "a", "skill": "x", "params": {"n": %s}}]}',
        '{"dag_id": "d", "tasks": [{"id": "a", "command": "x", "timeout": %s}]}',
        '{"dag_id": "d", "tasks": [{"id": "a", "command": "x", "max_retries": %s}]}',
        '{"dag_id": "d", "max_parallel": %s, "tasks": [{"id": "a", "command": "x"}]}',
        "dag_id: d\ntasks: [{id: a, command: x, timeout: %s}]",
        "dag_id: d\ntasks: [{id: a, command: x, timeout: 0x%s}]",
        'dag_id = "d"\n[[tasks]]\nid = "a"\ncommand = "x"\ntimeout = %s',
        'dag_id = "d"\n[[tasks]]\nid = "a"\ncommand = "x"\nmax_retries = 0x%s',
    ],
)
def test_numbers_of_any_length_are_refused_and_overflow_nothing(text: str, digits: str) -> None:
    assert refused(text % digits).faults


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "a\\ud800b"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(half: str) -> None:
    """It can be read from JSON, but written nowhere: not to the database, a process or a terminal."""
    for text in (
        '{"dag_id": "d", "tasks": [{"id": "a", "skill": "x", "params": {"%s": 1}}]}',
        '{"dag_id": "d", "tasks": [{"id": "a", "skill": "x", "params": {"k": ["%s"]}}]}',
        '{"dag_id": "d", "%s": 1, "tasks": [{"id": "a", "command": "x"}]}',
        '{"dag_id": "d", "tasks": [{"id": "a", "command": "%s"}]}',
    ):
        error = refused(text % half)
        assert "surrogate" in str(error)
        assert str(error).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "a\0b"},
        {"command": ["a", "b\0"]},
        {"command": "x", "env": {"A": "\0"}},
        {"command": "x", "env": {"A\0": "b"}},
        {"command": "x", "cwd": "a\0"},
        {"skill": "x", "params": {"a": ["\0"]}},
        {"skill": "x", "params": {"a": {"b\0": 1}}},
    ],
)
def test_a_nul_character_is_refused_wherever_a_process_could_meet_it(fields: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        dag_from_plain({"dag_id": "d", "tasks": [{"id": "a", **fields}]})
