"""Streams over a real socket: followed logs, server-sent events, and many requests at once."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from cis.api.streams import PART_BYTES
from cis.engine.observe import logreader
from cis.model.states import AttemptState, RunState
from tests.worlds.serving import TOKEN, NodeUnderTest, assert_problem, served
from tests.worlds.waiting import wait_for

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def client(node: NodeUnderTest) -> Iterator[httpx.Client]:
    """Give the test a client of the node, over a real socket."""
    with served(node) as url, httpx.Client(base_url=url, headers=HEADERS, timeout=10) as client:
        yield client


class Listener:
    """Reads the lines of a stream in a thread."""

    def __init__(self, client: httpx.Client, path: str, **headers: str) -> None:
        self.lines: list[str] = []
        self._begun = threading.Event()
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(client, path, headers), daemon=True)
        self.thread.start()
        assert self._begun.wait(10)

    def _read(self, client: httpx.Client, path: str, headers: dict[str, str]) -> None:
        with contextlib.suppress(httpx.HTTPError), client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            self.content_type = answer.headers["content-type"]
            self._begun.set()
            for line in answer.iter_lines():
                self.lines.append(line)
                if self._stop.is_set():
                    return

    def events(self) -> list[tuple[str, Any]]:
        """Return the server-sent events so far: name and data."""
        found = []
        name = ""
        for line in list(self.lines):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
        return found


def test_logs_come_as_a_list_or_as_text(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"})
    for task_id in "ab":
        attempt = node.started(run, task_id)
        node.wrote(attempt, out=f"from {task_id}\n".encode(), err=b"oops\n")
        node.ended(run, attempt, AttemptState.FAILED, exit_code=3, error="exit status 3")

    page = node.get(f"/api/v1/runs/{run.run_id}/logs")
    text = node.call("GET", f"/api/v1/runs/{run.run_id}/logs?task=b", headers={"Accept": "text/plain"})

    assert [(item["task_id"], item["attempt"], item["output"], item["error"]) for item in page["items"]] == [
        ("a", 1, "from a\n", "oops\n"),
        ("b", 1, "from b\n", "oops\n"),
    ]
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == (
        "==> b, attempt 1, output <==\nfrom b\n"
        "==> b, attempt 1, error <==\noops\n"
        "==> b, attempt 1, note <==\nattempt 1 failed: exit status 3\n"
    )


def test_a_list_of_logs_that_is_written_in_parts_is_whole(node: NodeUnderTest) -> None:
    """More than one attempt in a part, and more than one part."""
    names = [f"t{number}" for number in range(7)]
    run = node.submitted(*({"id": name} for name in names))
    for name in names:
        attempt = node.started(run, name)
        node.wrote(attempt, out=f"{name:x<{PART_BYTES // 3}}".encode(), err=b"")
        node.ended(run, attempt, AttemptState.COMPLETED, exit_code=0)

    page = node.get(f"/api/v1/runs/{run.run_id}/logs")

    assert [item["output"].rstrip("x") for item in page["items"]] == names
    assert page["next_cursor"] is None


def test_a_run_without_attempts_has_an_empty_list_of_logs(node: NodeUnderTest) -> None:
    assert node.get(f"/api/v1/runs/{node.submitted().run_id}/logs") == {"items": [], "next_cursor": None}


def test_what_is_not_in_the_run_has_no_logs(node: NodeUnderTest) -> None:
    path = f"/api/v1/runs/{node.submitted({'id': 'a'}).run_id}/logs"

    assert_problem(node.call("GET", f"{path}?task=nope"), 404, "not_found")
    assert_problem(node.call("GET", f"{path}?task=nope&follow=true"), 404, "not_found")
    assert_problem(node.call("GET", f"{path}?task=a&attempt=1"), 404, "not_found")
    assert_problem(node.call("GET", f"{path}?attempt=first&follow=maybe"), 422, "query.invalid")


def test_followed_logs_come_line_by_line_while_the_task_runs_and_end_with_the_run(
    node: NodeUnderTest, client: httpx.Client
) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    listener = Listener(client, f"/api/v1/runs/{run.run_id}/logs?follow=true")
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\n")
    wait_for(lambda: listener.lines, what="the first line, before the task has ended")
    node.wrote(attempt, err=b"two\n")
    node.ended(run, attempt)
    node.changed(run, RunState.COMPLETED)
    listener.thread.join(10)

    assert listener.content_type == "application/x-ndjson"
    assert [json.loads(line) for line in listener.lines] == [
        {"task_id": "a", "attempt": 1, "stream": "output", "text": "one\n"},
        {"task_id": "a", "attempt": 1, "stream": "error", "text": "two\n"},
        {"task_id": None, "attempt": None, "stream": "end", "text": "completed"},
    ]


def test_who_follows_logs_is_woken_by_events_and_need_not_look_again_and_again(
    node: NodeUnderTest, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logreader, "POLL_S", 3600.0)
    monkeypatch.setattr(logreader, "GROWS_S", 3600.0)
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    listener = Listener(client, f"/api/v1/runs/{run.run_id}/logs?follow=true")
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\n")
    node.ended(run, attempt)
    wait_for(lambda: listener.lines, what="what the task wrote")
    node.changed(run, RunState.COMPLETED)
    listener.thread.join(10)

    assert [json.loads(line)["text"] for line in listener.lines] == ["one\n", "completed"]


def test_followed_logs_come_as_events_or_as_text_for_whoever_asks(node: NodeUnderTest, client: httpx.Client) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\n")
    node.ended(run, attempt)
    node.changed(run, RunState.COMPLETED)
    path = f"/api/v1/runs/{run.run_id}/logs?follow=true"

    events = Listener(client, path, Accept="text/event-stream")
    text = Listener(client, path, Accept="text/plain")
    events.thread.join(10)
    text.thread.join(10)

    assert [(name, data["stream"], data["text"]) for name, data in events.events()] == [
        ("log", "output", "one\n"),
        ("log", "end", "completed"),
    ]
    assert text.lines == ["==> a, attempt 1, output <==", "one"]


def test_every_change_of_state_is_told_in_order(node: NodeUnderTest, client: httpx.Client) -> None:
    listener = Listener(client, "/api/v1/events")
    answer = client.post("/api/v1/dag/execute", json={"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]})
    run = node.store.runs.get(answer.json()["run_id"])
    assert run is not None
    run = node.changed(run, RunState.RUNNING)
    node.ended(run, node.started(run, "a"))
    node.changed(run, RunState.COMPLETED)

    wait_for(lambda: len(listener.events()) == 5, what="five events")

    assert [(name, data["task_id"], data["status"]) for name, data in listener.events()] == [
        ("run", None, "pending"),
        ("run", None, "running"),
        ("task", "a", "running"),
        ("task", "a", "completed"),
        ("run", None, "completed"),
    ]
    assert [data["seq"] for _, data in listener.events()] == [1, 2, 3, 4, 5]
    assert [line for line in listener.lines if line.startswith("id: ")] == [f"id: {seq}" for seq in range(1, 6)]


def test_a_listener_that_comes_back_gets_what_it_missed(node: NodeUnderTest, client: httpx.Client) -> None:
    for _ in range(5):
        node.submitted()

    listener = Listener(client, "/api/v1/events", **{"Last-Event-ID": "2"})
    wait_for(lambda: len(listener.events()) >= 3, what="the missed events")
    node.submitted()
    node.hub.poke()
    wait_for(lambda: len(listener.events()) == 4, what="the new event")

    assert [data["seq"] for _, data in listener.events()] == [3, 4, 5, 6]


@pytest.mark.parametrize(("last", "first"), [("1", 8), ("999", None)])
def test_a_listener_whose_place_is_gone_is_told_of_the_gap(
    node: NodeUnderTest, client: httpx.Client, last: str, first: int | None
) -> None:
    for _ in range(10):
        node.submitted()
    wait_for(lambda: node.hub.last_seq == 10, what="the hub to read on")
    with node.store.transaction():
        node.store.events.prune(keep=3, at_most=1000)
    node.hub._recent.clear()

    listener = Listener(client, "/api/v1/events", **{"Last-Event-ID": last})
    wait_for(listener.events, what="the gap")
    node.submitted()
    node.hub.poke()
    wait_for(lambda: listener.events()[-1][1]["seq"] == 11, what="the new event")

    names = [name for name, _ in listener.events()]
    seqs = [data["seq"] for name, data in listener.events() if name != "gap"]
    assert names.count("gap") == 1
    assert names[0] == "gap"
    assert seqs == list(range(first or 11, 12))


def test_a_last_event_id_that_is_no_number_is_refused(node: NodeUnderTest) -> None:
    assert_problem(node.call("GET", "/api/v1/events", headers={"Last-Event-ID": "x"}), 422, "query.invalid")


def test_a_listener_that_does_not_read_holds_up_nobody(node: NodeUnderTest, client: httpx.Client) -> None:
    with client.stream("GET", "/api/v1/events") as asleep:
        assert asleep.status_code == 200
        listener = Listener(client, "/api/v1/events")
        for _ in range(300):
            node.submitted()
        node.hub.poke()

        wait_for(lambda: len(listener.events()) == 300, what="all events at the one that reads")


def test_streams_end_when_the_node_stops(node: NodeUnderTest, client: httpx.Client) -> None:
    run = node.submitted()
    listeners = [Listener(client, path) for path in ("/api/v1/events", f"/api/v1/runs/{run.run_id}/logs?follow=true")]

    node.hub.close()
    for listener in listeners:
        listener.thread.join(5)

    assert not any(listener.thread.is_alive() for listener in listeners)


def test_many_submissions_at_once_make_exactly_one_run_each_and_one_for_a_shared_key(client: httpx.Client) -> None:
    def post(number: int) -> tuple[int, str]:
        key = {"Idempotency-Key": "shared"} if number % 2 else {}
        document = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}
        answer = client.post("/api/v1/dag/execute", json=document, headers=key)
        return answer.status_code, answer.json()["run_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(200)))

    shared = answers[1::2]
    alone = answers[::2]
    assert len({run_id for _, run_id in shared}) == 1
    assert sorted(status for status, _ in shared) == [200] * 99 + [202]
    assert len({run_id for _, run_id in alone}) == 100
    assert {status for status, _ in alone} == {202}
    assert len(client.get("/api/v1/runs?limit=1000").json()["items"]) == 101


def test_a_body_over_the_limit_is_answered_even_while_the_client_still_sends(
    node: NodeUnderTest, client: httpx.Client
) -> None:
    answer = client.post("/api/v1/dag/execute", content=b" " * (node.services.max_body_bytes + 1))

    assert_problem(answer, 413, "document.too_large")
    assert client.get("/health").status_code == 200
