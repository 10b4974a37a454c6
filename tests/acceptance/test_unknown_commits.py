"""A connection that is lost at a commit: nobody knows whether it was stored, so it is read again. Nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, make_sandbox
from tests.worlds.postgres import PostgresServer
from tests.worlds.relay import Relay, relaying
from tests.worlds.waiting import wait_for

STORED = [True, False]
NAMES = ["stored", "lost"]


@pytest.fixture
def cut(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Sandbox, Relay]]:
    """A home whose database is behind a relay."""
    with ExitStack() as ends:
        url = ends.enter_context(postgres.database())
        relay = ends.enter_context(relaying(postgres.port))
        made = make_sandbox(tmp_path)
        through = url.replace(f":{postgres.port}/", f":{relay.port}/")
        yield Sandbox(made.home, {**made.env, "CIS_STORE": through}), relay


def dag(folder: Path, *, seconds: float = 0) -> dict[str, object]:
    """Two tasks, one after the other, that leave a line each time they run; a lost attempt fails them."""
    tasks = [
        {"id": "a", "command": f"echo a >> {folder}/ran; sleep {seconds}", "on_lost": "fail"},
        {"id": "b", "command": f"echo b >> {folder}/ran", "on_lost": "fail", "depends_on": ["a"]},
    ]
    return {"dag_id": "d", "tasks": tasks}


def test_a_submission_of_which_nobody_knows_is_found_by_its_key_or_made_and_never_twice(
    cut: tuple[Sandbox, Relay], tmp_path: Path
) -> None:
    sandbox, relay = cut
    with sandbox.node() as node:
        for stored in STORED:
            relay.cut("INSERT INTO dag_runs", stored=stored)
            key = {"Idempotency-Key": f"k-{stored}"}
            unsure = node.execute(dag(tmp_path), **key)
            again = node.execute(dag(tmp_path), **key)

            assert (unsure.status, unsure.body["code"]) == (503, "store.unsure")
            assert unsure.headers["retry-after"]
            assert again.status == (200 if stored else 202)
            assert node.finished(again.body["run_id"])["status"] == "completed"
        assert sandbox.rows("SELECT count(*) FROM dag_runs") == [(2,)]

    assert relay.cuts == NAMES
    assert (tmp_path / "ran").read_text().split() == ["a", "b", "a", "b"]


@pytest.mark.parametrize("having", ["INSERT INTO task_executions", "UPDATE task_executions"], ids=["start", "end"])
def test_a_turn_of_which_nobody_knows_starts_each_task_once_and_loses_no_end(
    cut: tuple[Sandbox, Relay], tmp_path: Path, having: str
) -> None:
    sandbox, relay = cut
    with sandbox.node() as node:
        for stored in STORED:
            (tmp_path / "ran").unlink(missing_ok=True)
            relay.cut(having, stored=stored)
            run = node.finished(node.execute(dag(tmp_path)).body["run_id"])

            assert run["status"] == "completed", run
            assert (tmp_path / "ran").read_text().split() == ["a", "b"]
            assert relay.done
        states = sandbox.rows("SELECT DISTINCT status FROM task_executions")

    assert relay.cuts == NAMES
    assert states == [("completed",)]


def test_a_cancel_of_which_nobody_knows_is_done_or_done_again(cut: tuple[Sandbox, Relay], tmp_path: Path) -> None:
    sandbox, relay = cut
    with sandbox.node() as node:
        for stored in STORED:
            run_id = node.execute(dag(tmp_path, seconds=60)).body["run_id"]
            wait_for(lambda run_id=run_id: node.run(run_id)["status"] == "running", what="the run")  # type: ignore[misc]
            relay.cut("UPDATE dag_runs", stored=stored)
            unsure = node.call("POST", f"/api/v1/runs/{run_id}/cancel")
            if not stored:
                assert node.run(run_id)["status"] == "running"
                node.call("POST", f"/api/v1/runs/{run_id}/cancel")

            assert (unsure.status, unsure.body["code"]) == (503, "store.unsure")
            assert node.finished(run_id)["status"] == "cancelled"

    assert relay.cuts == NAMES
