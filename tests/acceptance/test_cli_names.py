"""How runs and DAGs are named on the command line: by a DAG's id, a run's id, or the beginning of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, make_sandbox, write_dag


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A home in which a DAG ran twice, and another one once; no node runs."""
    folder = tmp_path_factory.mktemp("ran")
    sandbox = make_sandbox(folder)
    for dag_id, word in (("twice", "first"), ("twice", "second"), ("once", "only")):
        document = {"dag_id": dag_id, "tasks": [{"id": "say", "command": f"echo {word}"}]}
        sandbox.json("dag", "run", write_dag(folder, document))
    return sandbox


def runs_of(sandbox: Sandbox, dag_id: str) -> list[str]:
    """Return the ids of a DAG's runs, newest first."""
    return [one["run_id"] for one in sandbox.json("dag", "list", "--dag", dag_id)]


def unique_beginning(sandbox: Sandbox, run_id: str) -> str:
    """Return the shortest beginning of a run's id that no other run has."""
    others = [one["run_id"] for one in sandbox.json("dag", "list") if one["run_id"] != run_id]
    return next(
        run_id[:length] for length in range(6, 37) if not any(one.startswith(run_id[:length]) for one in others)
    )


@pytest.mark.parametrize("form", ["whole", "beginning"])
def test_a_run_id_or_its_beginning_does_wherever_a_dag_id_is_asked_for(ran: Sandbox, form: str) -> None:
    first = runs_of(ran, "twice")[-1]
    name = first if form == "whole" else unique_beginning(ran, first)

    assert [one["run_id"] for one in ran.json("dag", "status", name)["runs"]] == [first]
    assert ran.cis("dag", "logs", name).stdout == "first\n"
    assert ran.cis("dag", "logs", "twice", "--run", name).stdout == "first\n"
    assert [one["output"] for one in ran.json("dag", "logs", name)] == ["first\n"]
    assert ran.json("dag", "list", "--dag", name) == ran.json("dag", "list", "--dag", "twice")
    assert ran.json("dag", "cancel", name, expect=4)["error"]["code"] == "state.illegal"
    again = ran.json("dag", "rerun", name)
    assert ran.cis("dag", "logs", again["run_id"]).stdout == "first\n"


def test_what_several_runs_begin_with_names_none_of_them(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path)
    document = {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}
    made = [sandbox.json("dag", "run", write_dag(tmp_path, document))["run_id"] for _ in range(2)]
    same = made[0][:6]
    if not made[1].startswith(same):  # four hours and a half have just begun
        made = [sandbox.json("dag", "run", write_dag(tmp_path, document))["run_id"] for _ in range(2)]
        same = made[0][:6]

    done = sandbox.cis("dag", "status", same)

    assert done.returncode == 2
    assert f"several runs begin with {same!r}" in done.stderr
    assert made[0] in done.stderr
    assert sandbox.cis("dag", "status", same[:5]).returncode == 3


def test_a_dag_goes_before_a_run_whose_id_begins_as_it_is_called(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path)
    document = {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}
    run_id = sandbox.json("dag", "run", write_dag(tmp_path, document))["run_id"]
    namesake = sandbox.json("dag", "run", write_dag(tmp_path, {**document, "dag_id": run_id[:9]}))["run_id"]

    assert [one["run_id"] for one in sandbox.json("dag", "status", run_id[:9])["runs"]] == [namesake]


def test_a_run_of_another_dag_is_told_as_one(ran: Sandbox) -> None:
    (run_id,) = runs_of(ran, "once")

    done = ran.cis("dag", "logs", "twice", "--run", run_id)

    assert done.returncode == 3
    assert f"run {run_id} is one of once" in done.stderr


def test_a_list_has_one_dag_alone_where_one_is_named_and_says_how_long_each_run_took(ran: Sandbox) -> None:
    (only,) = ran.json("dag", "list", "--dag", "once")
    table = ran.cis("dag", "list", "--dag", "once").stdout.splitlines()

    assert only["dag_id"] == "once"
    assert only["finished_at"] >= only["started_at"]
    assert "TOOK" in table[0]
    column = table[0].index("TOOK")
    assert table[1][column:].split()[0].endswith("s")
    assert len(table) == 2
    assert ran.json("dag", "list", "--dag", "nothing") == []


def test_an_error_is_json_where_json_is_asked_for(ran: Sandbox, tmp_path: Path) -> None:
    absent = ran.json("dag", "status", "nothing", expect=3)["error"]
    bad = ran.cis("dag", "validate", write_dag(tmp_path, {"dag_id": "..", "tasks": []}), "--json")

    assert absent["code"] == "not_found"
    assert "nothing" in absent["message"]
    assert absent["faults"] == []
    assert bad.returncode == 2
    told = json.loads(bad.stdout)["error"]
    assert told["code"] == "document.invalid"
    assert {one["place"] for one in told["faults"]} == {"dag_id", "tasks"}


def test_what_an_id_may_be_is_said_so_that_a_letter_that_is_refused_is_none_of_it(ran: Sandbox, tmp_path: Path) -> None:
    document = {"dag_id": "größe", "tasks": [{"id": "t", "command": "true"}]}

    assert "use ASCII letters, digits" in ran.cis("dag", "validate", write_dag(tmp_path, document)).stderr


def test_the_id_of_this_node_is_no_other_node_and_the_mend_is_named(ran: Sandbox) -> None:
    own = ran.json("node", "status")
    done = ran.cis("node", "trust", own["node_id"], own["public_key"])

    assert done.returncode == 2
    assert "the id of the node of this home" in done.stderr
    assert "give one of them another id" in done.stderr
