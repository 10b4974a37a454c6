"""A node under more than it can take: every request is answered in time, and means what it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apsw

from tests.worlds.cluster import all_over, befriend, make_nodes, running
from tests.worlds.harness import Answer, Sandbox, write_dag
from tests.worlds.waiting import wait_for

CLIENTS = 32
REQUESTS = 320
LONGEST_S = 15.0


@contextmanager
def slow_disk(sandbox: Sandbox) -> Iterator[None]:
    """Hold the database's write lock again and again, for a tenth of a second, as a disk does that is slow to sync."""
    over = threading.Event()

    def hold() -> None:
        connection = apsw.Connection(str(sandbox.home / "cis.db"))
        connection.set_busy_timeout(30_000)
        while not over.is_set():
            connection.execute("BEGIN IMMEDIATE")
            over.wait(0.1)
            connection.execute("ROLLBACK")
            over.wait(0.02)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()


def test_under_overload_nothing_hangs_what_is_refused_is_not_kept_and_what_is_accepted_completes(
    sandbox: Sandbox,
) -> None:
    taken: list[float] = []

    with sandbox.node(CIS_MAX_QUEUED="5", CIS_MAX_WORKERS="1", CIS_SLOTS="1") as node:

        def post(number: int) -> Answer:
            begun_s = time.monotonic()
            document = {"dag_id": "d", "tasks": [{"id": "t", "command": f"sleep 0.02; echo {number}"}]}
            answer = node.execute(document, **{"Idempotency-Key": f"key-{number}"})
            taken.append(time.monotonic() - begun_s)
            return answer

        with slow_disk(sandbox), ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(post, range(REQUESTS)))
        accepted = {answer.body["run_id"]: number for number, answer in enumerate(answers) if answer.status == 202}
        refused = [answer for answer in answers if answer.status != 202]
        kept = {run_id for (run_id,) in sandbox.rows("SELECT run_id FROM dag_runs")}

        def states() -> dict[str, str]:
            return dict(sandbox.rows("SELECT run_id, status FROM dag_runs"))

        wait_for(lambda: set(states().values()) <= {"completed", "failed"}, timeout_s=90, what="all runs to end")
        later = {number: post(number) for number, answer in enumerate(answers[:40]) if answer.status != 202}

    assert max(taken) < LONGEST_S
    assert accepted
    assert refused
    assert {answer.status for answer in refused} <= {429, 503}
    for answer in refused:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert int(headers["retry-after"]) >= 1
        assert headers["content-type"] == "application/problem+json"
        assert answer.body["code"] in ("overloaded", "overloaded.share", "store.busy")
    assert kept == set(accepted)
    assert {run_id: states()[run_id] for run_id in accepted} == dict.fromkeys(accepted, "completed")
    assert {answer.status for answer in later.values()} <= {202, 429, 503}  # what was refused once is no repetition


def test_the_command_line_keeps_to_the_same_bound_as_the_node(sandbox: Sandbox, tmp_path: Path) -> None:
    file = write_dag(tmp_path, {"dag_id": "d", "tasks": [{"id": "t", "command": "sleep 60"}]})
    with sandbox.node(CIS_MAX_QUEUED="1", CIS_MAX_WORKERS="1") as node:
        first = node.execute({"dag_id": "proj-a-x", "tasks": [{"id": "t", "command": "sleep 60"}]}).body["run_id"]
        wait_for(lambda: node.run(first)["status"] == "running", what="the one worker to be taken")
        (sandbox.home / "cis.toml").write_text("[queue]\nmax_queued = 1\n")
        second = sandbox.cis("dag", "run", file)
        third = sandbox.cis("dag", "run", file)
        over_http = node.execute({"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]})
        for run_id in [first, *(run["run_id"] for run in sandbox.json("dag", "list", "--status", "pending"))]:
            node.call("POST", f"/api/v1/runs/{run_id}/cancel")

    assert second.returncode == 0
    assert third.returncode == 5
    assert "try again in" in third.stderr
    assert over_http.status == 503
    assert len(sandbox.rows("SELECT 1 FROM dag_runs")) == 2


def test_what_a_full_node_puts_off_stays_with_its_sender_and_comes_again_and_what_it_forgets_stays_known_there(
    tmp_path: Path,
) -> None:
    origin, executor = nodes = make_nodes(tmp_path, 2)
    befriend(*nodes)
    executor.start(
        CIS_MAX_QUEUED="1", CIS_MAX_WORKERS="1", CIS_SLOTS="1", CIS_MAX_AGE="1", CIS_PRUNE_EVERY="1", CIS_MAX_RUNS="1"
    )
    with running(*nodes):
        # Two scopes for one place: what the second has waits in the queue, which is soon full.
        documents = [
            {"dag_id": f"proj-{'ab'[number % 2]}-x", "tasks": [{"id": "t", "command": "sleep 0.05"}]}
            for number in range(8)
        ]
        runs = [origin.api.execute({**document, "target_node": "node-2"}).body["run_id"] for document in documents]
        full = "SELECT 1 FROM outbox WHERE fault LIKE '%wait already%'"
        refused = wait_for(lambda: origin.sandbox.rows(full), what="node-2 to be full")
        ends = all_over(origin, runs, timeout_s=90)
        forgotten = wait_for(
            lambda: not executor.sandbox.rows("SELECT 1 FROM dag_runs"), timeout_s=30, what="node-2 to forget them"
        )
        put_off = origin.sandbox.rows("SELECT count(*) FROM outbox")
        after = [origin.api.run(run_id)["status"] for run_id in runs[:5]]

    assert refused
    assert ends == dict.fromkeys(runs, "completed")
    assert forgotten
    assert put_off == [(0,)]
    assert after == ["completed"] * 5
    assert not executor.audited("refused.execute")
