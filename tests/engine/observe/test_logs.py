"""Logs: complete, bounded, decoded as they grow, and followed to the end without losing an attempt."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cis.api.streams import _attempt_list
from cis.engine.logfiles import LogFiles
from cis.engine.observe import logreader, logs
from cis.engine.observe.logreader import LOOK_BYTES, LogChoice, LogReader
from cis.engine.observe.logs import AttemptParts, attempt_logs, open_logs
from cis.engine.observe.logtext import LogPiece, LogStream
from cis.engine.transitions import move_tasks
from cis.errors import NotFoundError
from cis.federation.executing import report
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.port import Store
from cis.store.records import TAIL_BYTES, RunRecord
from tests.worlds.serving import NodeUnderTest


def log_pieces(store: Store, logfiles: LogFiles, run_id: str, **choice: Any) -> Iterator[LogPiece]:
    """Return all that was written so far."""
    return (piece for piece in looks(store, open_logs(store, logfiles, run_id, LogChoice(**choice))) if piece)


def follow(store: Store, logfiles: LogFiles, run_id: str, **choice: Any) -> Iterator[LogPiece | None]:
    """Return what is written until the run is over; None when nothing is new."""
    return looks(store, open_logs(store, logfiles, run_id, LogChoice(follow=True, **choice)))


def looks(store: Store, reader: LogReader) -> Iterator[LogPiece | None]:
    """Look until all was told."""
    while not reader.over:
        pieces = reader.look(store)
        yield from (piece._replace(at_us=0) for piece in pieces)
        if not pieces and reader.rests:
            yield None


def told(pieces: list[LogPiece], task_id: str, stream: str = "output") -> str:
    """Return the text of one stream of one task."""
    return "".join(piece.text for piece in pieces if piece.task_id == task_id and piece.stream == stream)


def test_logs_are_complete_and_in_the_order_of_the_starts(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"})
    for task_id, out in (("b", b"from b\n"), ("a", b"x" * 300_000)):
        attempt = node.started(run, task_id)
        node.wrote(attempt, out=out, err=b"oops\n")
        node.ended(run, attempt, AttemptState.FAILED, exit_code=3, error="exit status 3")

    found = list(attempt_logs(node.store, node.logfiles, run.run_id))

    assert [(each["task_id"], each["attempt"], each["exit_code"], each["status"]) for each in found] == [
        ("b", 1, 3, "failed"),
        ("a", 1, 3, "failed"),
    ]
    assert found[0]["output"] == "from b\n"
    assert found[1]["output"] == "x" * 300_000
    assert (found[0]["error"], found[0]["reason"]) == ("oops\n", "exit status 3")


def test_one_task_or_one_attempt_can_be_asked_for(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"}, {"id": "b"})
    for number, task_id in enumerate("aab"):
        attempt = node.started(run, task_id)
        node.wrote(attempt, out=f"{number}".encode())
        node.ended(run, attempt, AttemptState.FAILED, again=task_id == "a")

    def texts(**choice: Any) -> list[str]:
        return [each["output"] for each in attempt_logs(node.store, node.logfiles, run.run_id, **choice)]

    assert texts() == ["0", "1", "2"]
    assert texts(task="a") == ["0", "1"]
    assert texts(task="a", attempt=2) == ["1"]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [({"task": "nope"}, "task"), ({"attempt": 7}, "attempt"), ({"task": "a", "attempt": 2}, "attempt")],
)
def test_what_is_not_there_is_not_found(node: NodeUnderTest, choice: dict[str, Any], kind: str) -> None:
    run = node.submitted({"id": "a"})
    node.ended(run, node.started(run, "a"))

    for read in (attempt_logs, log_pieces):
        with pytest.raises(NotFoundError) as caught:
            read(node.store, node.logfiles, run.run_id, **choice)
        assert caught.value.kind == kind
    with pytest.raises(NotFoundError):
        follow(node.store, node.logfiles, "no-such-run")


def test_the_kept_tail_stands_for_a_pruned_file_and_says_so(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    node.ended(run, attempt, stdout_tail="the end\n", stdout_bytes=100_000, stderr_tail="all of it\n", stderr_bytes=10)

    (view,) = attempt_logs(node.store, node.logfiles, run.run_id)
    pieces = list(log_pieces(node.store, node.logfiles, run.run_id))

    assert view["output"] == "[the log file is gone; of its 100000 bytes these were kept]\nthe end\n"
    assert view["error"] == "all of it\n"
    assert (told(pieces, "a"), told(pieces, "a", "error")) == (view["output"], view["error"])


def test_a_text_over_the_bound_is_cut_in_its_middle_between_characters(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_TEXT_BYTES", 100)
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    text = "€" * 1000
    node.wrote(attempt, out=text.encode())

    (view,) = attempt_logs(node.store, node.logfiles, run.run_id)

    head, note, tail = view["output"].split("\n")
    assert set(head) == set(tail) == {"€"}
    left_out = 3 * (1000 - len(head) - len(tail))
    assert note.startswith(f"[{left_out} bytes left out here")
    assert len((head + tail).encode()) <= 100


def test_pieces_are_bounded_whatever_the_size_of_the_log(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    line = "a line of a log, with an ä in it\n"
    node.wrote(attempt, out=(line * 100_000).encode())
    node.ended(run, attempt)
    reader = LogReader(node.logfiles, run.run_id, LogChoice())

    looks = []
    while not reader.over:
        looks.append(reader.look(node.store))

    assert len(looks) > 2
    assert max(sum(len(piece.text) for piece in look) for look in looks) <= 1_200_000
    assert told([piece for look in looks for piece in look], "a") == line * 100_000


def test_a_character_whose_bytes_come_one_by_one_stays_one(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    pieces = follow(node.store, node.logfiles, run.run_id)
    found: list[LogPiece] = []
    for byte in "é€😀".encode():
        node.wrote(attempt, out=bytes([byte]))
        found += [piece for piece in (next(pieces), next(pieces)) if piece is not None]
    node.ended(run, attempt)
    node.changed(node.changed(run, RunState.RUNNING), RunState.COMPLETED)
    found += [piece for piece in pieces if piece is not None]

    assert told(found, "a") == "é€😀"


def test_bytes_that_are_no_utf_8_become_replacement_characters(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"a\xffb\xe2\x82")
    node.ended(run, attempt)

    (view,) = attempt_logs(node.store, node.logfiles, run.run_id)

    assert view["output"] == "a\ufffdb\ufffd"
    assert told(list(log_pieces(node.store, node.logfiles, run.run_id)), "a") == view["output"]


def test_following_tells_lines_as_they_come_and_ends_with_the_run(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    pieces = follow(node.store, node.logfiles, run.run_id)
    assert next(pieces) is None

    run = node.changed(run, RunState.RUNNING)
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\ntw")
    assert next(pieces) == LogPiece("a", 1, LogStream.OUTPUT, "one\n")
    assert next(pieces) == LogPiece("a", 1, LogStream.OUTPUT, "tw")  # it rested, so it is told as it is
    assert next(pieces) is None
    node.wrote(attempt, out=b"o\n", err=b"and an error")
    node.ended(run, attempt, AttemptState.FAILED, exit_code=1, error="exit status 1")
    node.changed(run, RunState.FAILED)

    assert list(pieces) == [
        LogPiece("a", 1, LogStream.OUTPUT, "o\n"),
        LogPiece("a", 1, LogStream.ERROR, "and an error"),
        LogPiece("a", 1, LogStream.NOTE, "attempt 1 failed: exit status 1\n"),
    ]


@pytest.mark.parametrize("count", [3, 40])
def test_attempts_that_start_and_end_between_two_looks_are_told(node: NodeUnderTest, count: int) -> None:
    run = node.changed(node.submitted(*({"id": f"t{number}"} for number in range(count))), RunState.RUNNING)
    pieces = follow(node.store, node.logfiles, run.run_id)
    assert next(pieces) is None
    for number in range(count):
        for again in (True, False):
            attempt = node.started(run, f"t{number}")
            node.wrote(attempt, out=f"{number}.{attempt.attempt}\n".encode())
            node.ended(run, attempt, AttemptState.FAILED if again else AttemptState.COMPLETED, again=again)

    found = list(iter(lambda: next(pieces), None))

    assert [piece.text for piece in found] == [f"{number}.{k}\n" for number in range(count) for k in (1, 2)]
    node.changed(run, RunState.COMPLETED)
    assert list(pieces) == []


def test_a_follower_sees_new_attempts_after_the_event_log_was_pruned_under_it(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    pieces = follow(node.store, node.logfiles, run.run_id)
    assert next(pieces) is None
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"seen\n")
    node.submitted(dag_id="other")
    with node.store.transaction():
        node.store.events.prune(keep=1, at_most=1000)

    assert next(pieces) == LogPiece("a", 1, LogStream.OUTPUT, "seen\n")


def test_a_run_that_is_over_ends_a_follower_even_if_an_attempt_never_ended(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    node.wrote(node.started(run, "a"), out=b"half")
    node.changed(run, RunState.CANCELLED)

    assert [piece and piece.text for piece in follow(node.store, node.logfiles, run.run_id)] == ["half"]


def test_a_follower_tells_what_was_skipped_once_and_only_if_that_is_asked_for(node: NodeUnderTest) -> None:
    run = node.changed(node.submitted({"id": "a"}, {"id": "b", "depends_on": ["a"]}), RunState.RUNNING)
    around, plain = (follow(node.store, node.logfiles, run.run_id, around=each) for each in (True, False))
    assert next(around) is None
    before = node.store.tasks.of_run(run.run_id)[1]
    skipped = before._replace(status=TaskState.SKIPPED, blocked_by="a", finished_at_us=5)
    with node.store.transaction():
        move_tasks(node.store, run, [(before, skipped)], at_us=5)
    found = [next(around)]
    node.changed(run, RunState.FAILED)

    assert [*found, *around] == [LogPiece("b", 0, LogStream.NOTE, "skipped because of a\n")]
    assert list(plain) == []


def test_the_stream_that_was_written_to_last_comes_last(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"out\n", err=b"err\n")
    node.ended(run, attempt)
    files = node.logfiles.paths(run.run_id, 0, 1)

    def order(*, out_ns: int, err_ns: int) -> list[tuple[str, int]]:
        os.utime(files.stdout, ns=(out_ns, out_ns))
        os.utime(files.stderr, ns=(err_ns, err_ns))
        reader = open_logs(node.store, node.logfiles, run.run_id, LogChoice())
        return [(piece.text, piece.at_us) for piece in reader.look(node.store)]

    assert order(out_ns=1_000_000, err_ns=2_000_000) == [("out\n", 1000), ("err\n", 2000)]
    assert order(out_ns=2_000_000, err_ns=1_000_000) == [("err\n", 1000), ("out\n", 2000)]


def test_lines_of_two_streams_come_in_the_order_and_with_the_times_that_were_noted(node: NodeUnderTest) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\nthr")
    node.wrote(attempt, out=b"ee\nfive", err=b"two\nfour\n")
    Path(node.logfiles.paths(run.run_id, 0, 1).times).write_text("o 1 4\ne 2 4\no 3 7\no 4 10\ne 5 9\no 6 99\n")
    node.ended(run, attempt)
    reader = open_logs(node.store, node.logfiles, run.run_id, LogChoice())

    assert [(piece.text, piece.at_us) for piece in reader.look(node.store) if piece.stream != "note"][:5] == [
        ("one\n", 1),
        ("two\n", 2),
        ("three\n", 4),
        ("four\n", 5),
        ("five", 6),
    ]


@pytest.mark.parametrize("damage", [b"o 1\n", b"x 1 4\n", b"\xff", b"o one 4\n", b"o 1 4\n" * 20_000])
def test_times_that_cannot_be_read_cost_no_line(node: NodeUnderTest, damage: bytes) -> None:
    run = node.submitted({"id": "a"})
    attempt = node.started(run, "a")
    node.wrote(attempt, out=b"one\n", err=b"two\n")
    Path(node.logfiles.paths(run.run_id, 0, 1).times).write_bytes(damage)
    node.ended(run, attempt)

    assert {piece.text for piece in log_pieces(node.store, node.logfiles, run.run_id)} == {"one\n", "two\n"}


def with_tails(node: NodeUnderTest, count: int) -> RunRecord:
    """Run so many tasks, the last first, whose files are gone and of whose output the database keeps a tail."""
    run = node.changed(node.submitted(*({"id": f"t{number}"} for number in range(count))), RunState.RUNNING)
    for number in reversed(range(count)):
        tail = f"{number:0>{TAIL_BYTES}}"
        node.ended(run, node.started(run, f"t{number}"), stdout_tail=tail, stdout_bytes=TAIL_BYTES)
    return node.changed(run, RunState.COMPLETED)


@pytest.mark.parametrize("follow", [False, True])
def test_tails_that_stand_for_files_are_told_in_looks_as_small_as_files_are(
    node: NodeUnderTest, *, follow: bool
) -> None:
    run = with_tails(node, 100)
    reader = LogReader(node.logfiles, run.run_id, LogChoice(follow=follow))

    looks = []
    while not reader.over:
        looks.append(reader.look(node.store))

    assert max(sum(len(piece.text) for piece in look) for look in looks) <= LOOK_BYTES + 2 * TAIL_BYTES
    assert [int(piece.text[-9:]) for look in looks for piece in look] == list(reversed(range(100)))


def test_a_list_of_attempts_that_is_read_in_parts_is_whole_and_in_order(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, at_once in (
        (logs, "PLACES_AT_ONCE", 7),
        (logreader, "PLACES_AT_ONCE", 7),
        (logs, "ATTEMPTS_AT_ONCE", 3),
    ):
        monkeypatch.setattr(module, name, at_once)
    run = with_tails(node, 20)
    expected = list(reversed(range(20)))

    views = list(attempt_logs(node.store, node.logfiles, run.run_id))
    answer = node.get(f"/api/v1/runs/{run.run_id}/logs")
    pieces = list(log_pieces(node.store, node.logfiles, run.run_id))
    followed = list(follow(node.store, node.logfiles, run.run_id))

    assert [int(view["output"][-9:]) for view in views] == expected
    assert [int(item["output"][-9:]) for item in answer["items"]] == expected
    assert [int(piece.text[-9:]) for piece in pieces] == expected
    assert [piece and int(piece.text[-9:]) for piece in followed] == expected


async def length_of_answer(node: NodeUnderTest, run: RunRecord) -> int:
    """Return how long the answer of the API is, which a client would hold."""
    parts = AttemptParts(run.run_id, task=None, attempt=None)
    return sum([len(part) async for part in _attempt_list(node.services, parts)])


def most_memory(read: Callable[[], Iterable[object]]) -> int:
    """Return the bytes that this process has allocated at the most while all is read."""
    tracemalloc.start()
    try:
        deque(read(), maxlen=1)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", ["list", "answer", "pieces", "followed", "report"])
def test_reading_all_logs_of_a_run_takes_memory_for_a_few_of_them(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(report, "PAGE_ROWS", 2**18)
    run = with_tails(node, 400)
    read: dict[str, Callable[[], Iterable[object]]] = {
        "list": lambda: attempt_logs(node.store, node.logfiles, run.run_id),
        "answer": lambda: [asyncio.run(length_of_answer(node, run))],
        "pieces": lambda: log_pieces(node.store, node.logfiles, run.run_id),
        "followed": lambda: follow(node.store, node.logfiles, run.run_id),
        "report": lambda: [
            report.build_report(node.store, node.logfiles, run.run_id, tasks=None, cursor=report.Cursor()).final
        ],
    }
    for _ in read[how]():  # what is imported and compiled at the first time does not count
        break

    # The least of three: what threads of other tests take at the same moment is not its own.
    assert min(most_memory(read[how]) for _ in range(3)) < 400 * TAIL_BYTES // 2
