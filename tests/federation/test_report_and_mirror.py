"""What one node tells of a run that it executes, and what the node that accepted the run makes of it."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis.engine.observe.logreader import LogChoice, LogReader
from cis.engine.observe.logs import attempt_logs
from cis.errors import MalformedMessageError, NotFoundError, StoreError
from cis.federation.executing.report import Cursor, Report, build_report
from cis.federation.records import MAX_ERROR, MAX_LOG_BYTES, MAX_STREAM_BYTES
from cis.model.message import MAX_BLOB_BYTES
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import AttemptRecord, EventRecord, RunChange, RunRecord
from tests.worlds.reporting import PEER, Pair, packed
from tests.worlds.rows import attempts_of
from tests.worlds.serving import NodeUnderTest, node_under_test


def state_of(node: NodeUnderTest, run_id: str) -> dict[str, Any]:
    """Return what two nodes must agree on: of processes and workers, only the executor knows."""
    run = node.store.runs.get(run_id)
    assert run is not None
    attempts = [one._replace(worker_id="", pid=None, pid_started=None) for one in attempts_of(node.store, run_id)]
    return {
        "run": (run.status, run.started_at_us, run.finished_at_us, run.error),
        "tasks": list(node.store.tasks.of_run(run_id)),
        "attempts": attempts,
        "logs": logs_of(node, run_id),
    }


def logs_of(node: NodeUnderTest, run_id: str) -> dict[str, bytes]:
    """Return the log files of a run that hold anything."""
    folder = node.logfiles.folder(run_id)
    files = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name: path.read_bytes() for path in files if path.stat().st_size}


def assert_same(pair: Pair, run: RunRecord) -> None:
    assert state_of(pair.origin, run.run_id) == state_of(pair.executor, run.run_id)


def everything(node: NodeUnderTest, run_id: str) -> tuple[Any, ...]:
    """Return all that a report might change."""
    store = node.store
    return (
        store.runs.get(run_id),
        store.tasks.of_run(run_id),
        attempts_of(store, run_id),
        store.remotes.get(run_id),
        store.events.last_seq(),
        logs_of(node, run_id),
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two nodes for the whole module; every test hands over runs of its own."""
    with (
        node_under_test(tmp_path_factory.mktemp("origin")) as origin,
        node_under_test(tmp_path_factory.mktemp("executor")) as executor,
    ):
        yield Pair(origin, executor)


def ran(pair: Pair, run: RunRecord, task_id: str, *, out: bytes = b"", err: bytes = b"") -> AttemptRecord:
    """Run a task to its end, and return the attempt as it started."""
    attempt = pair.executor.started(run, task_id)
    pair.executor.wrote(attempt, out=out, err=err)
    pair.executor.ended(run, attempt, exit_code=0, stdout_tail=out[-100:].decode(errors="replace"))
    return attempt


# --- properties


@dataclass(slots=True)
class Life:
    """A run that lives on its executor, step by step, and is told now and then."""

    pair: Pair
    run: RunRecord
    limits: dict[str, Any]
    open: dict[str, AttemptRecord] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    cursor: Cursor = field(default_factory=Cursor)
    reports: list[Report] = field(default_factory=list)

    def start(self, task_id: str) -> None:
        task = self.pair.executor.store.tasks.get(self.run.run_id, task_id)
        if task is not None and task.status is TaskState.PENDING:
            if self.run.status is RunState.PENDING:
                self.run = self.pair.begun(self.run)
            self.open[task_id] = self.pair.executor.started(self.run, task_id)
            self.changed.add(task_id)

    def write(self, task_id: str, out: bytes, err: bytes) -> None:
        if task_id in self.open:
            self.pair.executor.wrote(self.open[task_id], out=out, err=err)

    def cut(self, task_id: str) -> None:
        """Cut the log to half, as the worker does with one that is over its cap."""
        if task_id in self.open:
            attempt = self.open[task_id]
            files = self.pair.executor.logfiles.paths(attempt.run_id, attempt.task_no, attempt.attempt)
            for path in map(Path, (files.stdout, files.stderr)):
                if path.exists() and path.stat().st_size > 1:
                    os.truncate(path, path.stat().st_size // 2)

    def end(self, task_id: str, status: AttemptState, again: bool) -> None:  # noqa: FBT001 - drawn by place
        if task_id in self.open:
            attempt = self.open.pop(task_id)
            again = status is AttemptState.LOST or (again and status is AttemptState.FAILED)
            pair, error = self.pair, None if status is AttemptState.COMPLETED else "why"
            pair.executor.ended(self.run, attempt, status, again=again, error=error, exit_code=3, stdout_bytes=9)
            self.changed.add(task_id)

    def pause(self) -> None:
        if self.run.status is RunState.RUNNING:
            self.run = self.pair.moved(self.run, RunChange(status=RunState.PAUSED))

    def resume(self) -> None:
        if self.run.status is RunState.PAUSED:
            self.run = self.pair.moved(self.run, RunChange(status=RunState.RUNNING))

    def tell(self, by_hint: bool) -> None:  # noqa: FBT001 - drawn by place
        tasks = self.changed if by_hint else None
        pages = self.pair.pages(self.run, self.cursor, tasks=tasks, **self.limits)
        self.reports.extend(pages)
        self.cursor = pages[-1].cursor
        self.changed = set()

    def finish(self, status: RunState) -> None:
        for task_id in list(self.open):
            self.end(task_id, AttemptState.COMPLETED, False)
        for task in self.pair.executor.store.tasks.of_run(self.run.run_id):
            if task.status is TaskState.PENDING:
                self.pair.executor.skipped(self.run, task.task_id, because="a")
        if self.run.status is RunState.PENDING:
            self.run = self.pair.begun(self.run)
        self.run = self.pair.over(self.run, status, error=None if status is RunState.COMPLETED else "for a reason")


TASKS = st.sampled_from(["a", "b", "c"])
TEXT = st.binary(max_size=40)
ENDS = st.sampled_from([AttemptState.COMPLETED, AttemptState.FAILED, AttemptState.LOST])
STEPS = [
    st.tuples(st.just("start"), TASKS),
    st.tuples(st.just("start"), TASKS),
    st.tuples(st.just("write"), TASKS, TEXT, TEXT),
    st.tuples(st.just("end"), TASKS, ENDS, st.booleans()),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("tell"), st.booleans()),
    st.tuples(st.just("tell"), st.booleans()),
]
CUT = st.tuples(st.just("cut"), TASKS)
VERDICTS = st.sampled_from([RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED])
LIMITS = st.fixed_dictionaries(
    {"max_bytes": st.sampled_from([1, 7, 2**19]), "max_tasks": st.sampled_from([1, 2, 2000])},
)


def lived(pair: Pair, steps: list[tuple[Any, ...]], verdict: RunState, limits: dict[str, Any]) -> Life:
    """Return a life of three tasks that went these steps, to its end."""
    life = Life(pair, pair.handed_over({"id": "a"}, {"id": "b"}, {"id": "c"}), limits)
    for name, *values in steps:
        getattr(life, name)(*values)
    life.finish(verdict)
    return life


@settings(max_examples=60)
@given(steps=st.lists(st.one_of(*STEPS, CUT), max_size=25), verdict=VERDICTS, limits=LIMITS, chance=st.randoms())
def test_reports_in_any_order_doubled_or_lost_end_in_the_same_state_once_all_was_told(
    pair: Pair, steps: list[tuple[Any, ...]], verdict: RunState, limits: dict[str, Any], chance: random.Random
) -> None:
    life = lived(pair, steps, verdict, limits)
    life.tell(True)
    assert life.reports[-1].final

    for _ in range(chance.randrange(2 * len(life.reports) + 1)):
        pair.hear(life.run, chance.choice(life.reports).content)
    from_the_start = pair.pages(life.run, **limits)
    pair.hear_all(life.run, from_the_start)

    assert_same(pair, life.run)
    assert not pair.remote(life.run).open


@settings(max_examples=60)
@given(steps=st.lists(st.one_of(*STEPS), max_size=25), verdict=VERDICTS, limits=LIMITS, chance=st.randoms())
def test_reports_that_all_came_are_enough_even_when_old_ones_come_again_in_between(
    pair: Pair, steps: list[tuple[Any, ...]], verdict: RunState, limits: dict[str, Any], chance: random.Random
) -> None:
    life = lived(pair, steps, verdict, limits)
    life.tell(True)

    for number, report in enumerate(life.reports):
        pair.hear(life.run, report.content)
        for _ in range(chance.randrange(3)):
            pair.hear(life.run, life.reports[chance.randrange(number + 1)].content)

    assert_same(pair, life.run)
    assert not pair.remote(life.run).open


@settings(max_examples=60)
@given(steps=st.lists(st.one_of(*STEPS, CUT), max_size=25), limits=LIMITS)
def test_a_run_looks_the_same_at_both_ends_after_every_telling_and_nothing_is_told_twice(
    pair: Pair, steps: list[tuple[Any, ...]], limits: dict[str, Any]
) -> None:
    life = Life(pair, pair.handed_over({"id": "a"}, {"id": "b"}, {"id": "c"}), limits)
    for name, *values in [step for step in steps if step[0] not in ("tell", "cut")]:
        getattr(life, name)(*values)
        life.tell(True)
        pair.hear_all(life.run, life.reports)
        life.reports = []
        assert_same(pair, life.run)

    again = pair.report(life.run, life.cursor)

    assert (again.content["tasks"], again.content["attempts"], again.content["logs"]) == ([], [], [])
    assert not again.more


# --- what is told


def test_a_run_of_one_task_takes_one_report(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a", out=b"hello\n", err=b"oops\n")
    pair.over(run)

    report = pair.report(run)
    applied = pair.hear(run, report.content)

    assert (report.more, report.final) == (False, True)
    assert set(report.content) == {"run", "tasks", "attempts", "logs"}
    assert (applied.run.status, applied.changed, applied.incomplete) == (RunState.COMPLETED, True, False)
    assert_same(pair, run)


def test_a_report_on_a_small_run_asks_three_questions_of_the_store(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a")
    pair.over(run)

    assert len(statements(pair.executor, lambda: pair.report(run))) == 3


def test_what_was_told_is_not_asked_for_again_while_a_task_only_writes(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    cursor = pair.report(run).cursor
    pair.executor.wrote(attempt, out=b"more")

    reports: list[Report] = []
    asked = statements(pair.executor, lambda: reports.append(pair.report(run, cursor, tasks=())))

    assert len(asked) == 1
    (piece,) = reports[0].content["logs"]
    assert (piece["offset"], unpacked(piece)) == (0, b"more")


def statements(node: NodeUnderTest, ask: Callable[[], object]) -> list[str]:
    """Return the statements that *ask* runs."""
    asked: list[str] = []

    def trace(_cursor: object, sql: str, _bindings: object) -> bool:
        asked.append(sql)
        return True

    node.store._db._cursor.exec_trace = trace
    try:
        ask()
    finally:
        node.store._db._cursor.exec_trace = None
    return asked


def test_a_large_run_is_told_in_pages_without_a_question_for_each_task(pair: Pair) -> None:
    count = 5000
    run = pair.begun(pair.handed_over(*({"id": f"t{number}"} for number in range(count))))
    for number in range(0, count, 100):
        ran(pair, run, f"t{number}", out=b"x" * 100)
    with pair.executor.store.transaction():
        pair.executor.store.tasks.change(
            (task, task._replace(status=TaskState.SKIPPED, blocked_by="t0"))
            for task in pair.executor.store.tasks.of_run(run.run_id)
            if not task.status.final
        )
    pair.over(run, RunState.FAILED)

    pages: list[Report] = []
    asked = statements(pair.executor, lambda: pages.extend(pair.pages(run)))
    applied = pair.hear_all(run, pages)

    assert len(pages) == 3
    assert len(asked) == 9
    assert [page.content["run"]["status"] for page in pages] == ["running", "running", "failed"]
    assert [page.final for page in pages] == [False, False, True]
    assert [each.run.status for each in applied] == ["running", "running", "failed"]
    assert_same(pair, run)


def test_a_few_named_tasks_of_a_large_run_are_found_without_reading_it_all(pair: Pair) -> None:
    run = pair.begun(pair.handed_over(*({"id": f"t{number}"} for number in range(100))))
    cursor = pair.report(run).cursor
    ran(pair, run, "t7", out=b"seven")
    ran(pair, run, "t3", out=b"three")

    reports: list[Report] = []
    names = {"t7", "t3", "no-such-task"}
    asked = statements(pair.executor, lambda: reports.append(pair.report(run, cursor, tasks=names)))

    (report,) = reports
    assert len(asked) == 5
    assert not any("WHERE run_id = ? ORDER BY" in sql for sql in asked)
    assert [task["id"] for task in report.content["tasks"]] == ["t3", "t7"]
    assert [(each["id"], each["status"]) for each in report.content["attempts"]] == [
        ("t3", "completed"),
        ("t7", "completed"),
    ]


def test_a_hint_that_misses_a_task_does_not_lose_its_end(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}))
    first = pair.report(run)
    ran(pair, run, "a")
    ran(pair, run, "b", out=b"late")
    pair.over(run)

    pair.hear_all(run, [first, pair.report(run, first.cursor, tasks={"a"})])

    assert_same(pair, run)


def test_what_does_not_fit_into_a_report_comes_with_the_next_although_nothing_new_is_named(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}, {"id": "c"}))
    ran(pair, run, "a", out=b"1234567", err=b"12345")
    ran(pair, run, "b", out=b"123456789")
    pair.executor.wrote(pair.executor.started(run, "c"), out=b"12345678901234567890", err=b"1")

    pages = pair.pages(run, tasks={"a", "b", "c"}, max_tasks=1, max_bytes=6)
    pair.hear_all(run, pages)

    sizes = [sum(len(unpacked(piece)) for piece in page.content["logs"]) for page in pages]
    assert (max(sizes), sum(sizes)) == (6, 42)
    assert all(len(page.content["tasks"]) <= 1 for page in pages)
    assert not pages[-1].final
    assert_same(pair, run)


def test_what_a_running_task_wrote_before_it_was_first_told_of_comes_at_once_in_pages(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    pair.executor.wrote(pair.executor.started(run, "a"), out=b"1234567890")

    pages = pair.pages(run, max_bytes=4)
    pair.hear_all(run, pages)

    assert [len(unpacked(piece)) for page in pages for piece in page.content["logs"]] == [4, 4, 2]
    assert_same(pair, run)


def unpacked(piece: dict[str, Any]) -> bytes:
    return zlib.decompress(base64.b64decode(piece["data"]))


def test_an_end_is_told_only_with_the_last_bytes_of_its_logs(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a", out=b"1234567890", err=b"!")
    pair.over(run)

    pages = pair.pages(run, max_bytes=4)

    assert [len(page.content["attempts"]) for page in pages] == [0, 0, 1]
    assert [len(page.content["tasks"]) for page in pages] == [0, 0, 1]
    pair.hear_all(run, pages)
    assert_same(pair, run)


def test_who_follows_the_log_at_the_origin_reads_all_of_it(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    reader = LogReader(pair.origin.logfiles, run.run_id, LogChoice(follow=True))
    heard, cursor = [], Cursor()
    attempt = pair.executor.started(run, "a")
    for number in range(20):
        pair.executor.wrote(attempt, out=f"line {number}\n".encode())
        if number == 19:
            pair.executor.ended(run, attempt, AttemptState.FAILED, error="exit status 1", exit_code=1)
            pair.over(run, RunState.FAILED)
        for page in pair.pages(run, cursor, tasks={"a"}, max_bytes=5):
            pair.hear(run, page.content)
            heard += reader.look(pair.origin.store)
            cursor = page.cursor
    while not reader.over:
        heard += reader.look(pair.origin.store)

    text = "".join(piece.text for piece in heard if piece.stream == "output")
    assert text == "".join(f"line {number}\n" for number in range(20))
    assert heard[-1].text == "attempt 1 failed: exit status 1\n"


@pytest.mark.parametrize("max_bytes", [1, 90, 2**19])
def test_a_long_log_is_copied_up_to_a_limit_and_ends_with_its_tail(pair: Pair, max_bytes: int) -> None:
    limits: dict[str, Any] = {"max_bytes": max_bytes, "max_log_bytes": 100}
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    pair.executor.wrote(attempt, out=b"x" * 1000 + b"the end\n", err=b"y" * 200)
    growing = pair.pages(run, **limits)
    pair.executor.ended(run, attempt, stdout_tail="the end\n", stdout_bytes=1008, stderr_tail="yy")
    pair.over(run)

    pair.hear_all(run, [*growing, *pair.pages(run, growing[-1].cursor, **limits)])

    (view,) = attempt_logs(pair.origin.store, pair.origin.logfiles, run.run_id)
    assert view["output"].startswith("x" * 100 + "\n[cis: 908 bytes are left out here;")
    assert view["output"].endswith("\nthe end\n")
    assert view["error"].startswith("y" * 100 + "\n[cis: 100 bytes are left out here;")


def test_no_setting_makes_a_copy_larger_than_the_origin_takes(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    pair.executor.wrote(attempt, out=b"x" * (MAX_STREAM_BYTES + 1))
    pair.executor.ended(run, attempt, stdout_tail="x" * 8192)
    pair.over(run)

    applied = pair.hear_all(run, pair.pages(run, max_bytes=2**22, max_log_bytes=2**30))[-1]

    assert applied.run.status is RunState.COMPLETED
    assert MAX_STREAM_BYTES // 2 < len(logs_of(pair.origin, run.run_id)["0.1.out"]) < MAX_STREAM_BYTES


def test_a_log_that_was_cut_rests_and_is_right_when_its_task_is_over(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    path = Path(pair.executor.logfiles.paths(run.run_id, 0, 1).stdout)
    pair.executor.wrote(attempt, out=b"kept" + b"dropped")
    reports = pair.pages(run)
    os.truncate(path, 4)
    pair.executor.wrote(attempt, out=b"!")
    reports += pair.pages(run, reports[-1].cursor)
    pair.executor.wrote(attempt, out=b" and much more than was there before the cut")
    reports += pair.pages(run, reports[-1].cursor)

    assert [len(report.content["logs"]) for report in reports] == [1, 0, 0]
    pair.executor.ended(run, attempt)
    os.truncate(path, 8)
    pair.over(run)
    pair.hear_all(run, [*reports, *pair.pages(run, reports[-1].cursor, max_bytes=3)])
    assert_same(pair, run)


def test_a_log_that_was_emptied_after_it_was_told_is_empty_in_the_end(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    pair.executor.wrote(attempt, out=b"gone soon")
    first = pair.report(run)
    os.truncate(pair.executor.logfiles.paths(run.run_id, 0, 1).stdout, 0)
    pair.executor.ended(run, attempt)
    pair.over(run)

    pair.hear_all(run, [first, *pair.pages(run, first.cursor)])

    assert_same(pair, run)


def test_a_log_file_that_is_gone_leaves_the_tail_of_its_row(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    pair.executor.ended(run, attempt, stdout_tail="all that is left\n", stdout_bytes=17)
    pair.over(run)

    pair.hear_all(run, pair.pages(run))

    (view,) = attempt_logs(pair.origin.store, pair.origin.logfiles, run.run_id)
    assert view["output"] == "all that is left\n"
    assert not pair.origin.logfiles.folder(run.run_id).exists()


def test_pages_stay_small_enough_to_travel_whatever_the_rows_hold(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}))
    with pair.executor.store.transaction():
        old = pair.executor.store.tasks.get(run.run_id, "b")
        assert old is not None
        new = old._replace(status=TaskState.SKIPPED, outputs={"BIG": "\x00" * 2**20}, error="e" * 2**17)
        pair.executor.store.tasks.change([(old, new)])
    for number in range(500):
        attempt = pair.executor.started(run, "a")
        tail = "\x01" * 8192
        pair.executor.ended(
            run, attempt, AttemptState.FAILED, again=number < 499, stdout_tail=tail, stderr_tail=tail, error="e" * 2**17
        )
    pair.over(run, RunState.FAILED)

    pages = pair.pages(run)
    pair.hear_all(run, pages)

    assert len(pages) > 5
    assert all(len(json.dumps(page.content)) <= MAX_BLOB_BYTES for page in pages)
    assert len(attempts_of(pair.origin.store, run.run_id)) == 500
    error = pair.task(run, "b").error or ""
    assert (len(error), error[-1]) == (MAX_ERROR, "…")
    assert pair.task(run, "b").outputs == new.outputs
    assert pair.run(run).status is RunState.FAILED


def test_outputs_that_no_report_could_hold_are_left_out_and_that_is_said(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    with pair.executor.store.transaction():
        old = pair.executor.store.tasks.get(run.run_id, "a")
        assert old is not None
        outputs = {f"N{number}": "x" * 2**20 for number in range(9)}
        pair.executor.store.tasks.change([(old, old._replace(status=TaskState.SKIPPED, outputs=outputs))])
    pair.over(run)

    pair.hear_all(run, pair.pages(run))

    task = pair.task(run, "a")
    assert (task.outputs, task.error) == ({}, "its outputs are too large to be told to another node")


def test_there_is_no_report_on_a_run_that_is_not_there(pair: Pair) -> None:
    with pytest.raises(NotFoundError):
        build_report(pair.executor.store, pair.executor.logfiles, "none", tasks=None, cursor=Cursor())


# --- what is heard


def test_listeners_at_the_origin_hear_of_the_run_and_of_each_task_once_and_in_order(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}))
    before = pair.origin.store.events.last_seq()
    ran(pair, run, "a")
    pair.executor.skipped(run, "b", because="a")
    pair.over(run, RunState.FAILED)
    (report,) = pair.pages(run)

    pair.hear_all(run, [report, report, report])

    events = pair.origin.store.events.after(before, limit=100)
    assert [told_by(event) for event in events] == [
        ("run", None, "running"),
        ("task", "a", "completed"),
        ("task", "b", "skipped"),
        ("run", None, "failed"),
    ]
    assert {event.run_id for event in events} == {run.run_id}


def told_by(event: EventRecord) -> tuple[str, str | None, str]:
    return event.kind, event.task_id, event.status


def test_no_code_of_the_origin_can_take_a_mirrored_attempt_for_a_process_of_its_own(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    with pair.executor.store.transaction():
        pair.executor.store.attempts.set_pids([attempt._replace(pid=4711, pid_started="then")])

    pair.hear(run, pair.report(run).content)

    (mirrored,) = attempts_of(pair.origin.store, run.run_id)
    assert (mirrored.worker_id, mirrored.pid, mirrored.pid_started) == (f"{PEER}/{run.worker_id}", None, None)
    assert not pair.origin.store.attempts.running(run.worker_id)


def test_a_cancel_that_was_asked_for_here_stays_asked_for_until_the_executor_knows(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    with pair.origin.store.transaction():
        pair.origin.store.runs.change(pair.run(run), RunChange(cancel_requested=True))

    pair.hear(run, pair.report(run).content)

    assert pair.run(run).cancel_requested


def test_a_run_is_paused_resumed_and_cancelled_as_its_executor_says(pair: Pair) -> None:
    run = pair.handed_over({"id": "a"})
    seen = []
    for change in (
        RunChange(status=RunState.PAUSED),
        RunChange(status=RunState.PENDING),
        RunChange(status=RunState.RUNNING, started_at_us=1),
        RunChange(status=RunState.PAUSED, cancel_requested=True),
    ):
        run = pair.moved(run, change)
        seen.append(pair.hear(run, pair.report(run).content).run)
    pair.executor.skipped(run, "a", because="a")
    run = pair.over(run, RunState.CANCELLED)
    seen.append(pair.hear(run, pair.report(run).content).run)

    assert [each.status for each in seen] == ["paused", "pending", "running", "paused", "cancelled"]
    assert [each.cancel_requested for each in seen] == [False, False, False, True, True]


def test_an_older_report_changes_nothing_that_a_newer_one_said(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    pair.executor.started(run, "a")
    old = pair.report(run)
    run = pair.moved(run, RunChange(status=RunState.PAUSED))
    pair.hear(run, pair.report(run).content)
    before = everything(pair.origin, run.run_id)

    applied = pair.hear(run, old.content)

    assert everything(pair.origin, run.run_id) == before
    assert not applied.changed


def test_a_run_does_not_end_here_before_the_ends_of_its_tasks_were_heard(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}))
    ran(pair, run, "a")
    ran(pair, run, "b")
    pair.over(run)
    lost, last = pair.pages(run, max_tasks=1)

    early = pair.hear(run, last.content)
    early_state, early_remote = pair.run(run), pair.remote(run)
    complete = pair.hear_all(run, [lost, last])[-1]

    assert (early.incomplete, early.changed, early_state.status) == (True, True, RunState.PENDING)
    assert (early_remote.open, early_remote.applied_version) == (True, 0)
    assert (complete.incomplete, complete.run.status) == (False, RunState.COMPLETED)
    assert_same(pair, run)


def test_the_end_of_a_nested_run_names_its_parent_to_be_rung_once(pair: Pair) -> None:
    parent = pair.origin.submitted({"id": "p"})
    run = pair.begun(pair.handed_over({"id": "a"}))
    with pair.origin.store.transaction():
        pair.origin.store._db.write(
            "UPDATE dag_runs SET parent_run_id = ?1 WHERE run_id = ?2", (parent.run_id, run.run_id)
        )
    going = pair.hear(run, pair.report(run).content)
    ran(pair, run, "a")
    pair.over(run)
    report = pair.report(run)

    over, again = pair.hear_all(run, [report, report])

    assert (going.parent_run_id, over.parent_run_id, again.parent_run_id) == (None, parent.run_id, None)


def test_what_was_lost_of_the_logs_of_a_run_that_is_over_is_filled_in(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    attempt = pair.executor.started(run, "a")
    pair.executor.wrote(attempt, out=b"lost, ")
    lost = pair.report(run)
    pair.executor.wrote(attempt, out=b"and found")
    pair.executor.ended(run, attempt)
    pair.over(run)
    over = pair.hear(run, pair.report(run, lost.cursor).content)

    pair.hear_all(run, [*pair.pages(run, max_bytes=4)])

    assert over.run.status is RunState.COMPLETED
    assert_same(pair, run)


def test_the_tasks_of_a_run_that_is_over_stay_as_they_are(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a")
    pair.over(run)
    content = pair.report(run).content
    pair.hear(run, content)

    applied = pair.hear(run, changed_at(changed_at(content, "tasks.0.version", 99), "tasks.0.status", "running"))

    assert not applied.changed
    assert_same(pair, run)


def test_a_run_that_ended_here_by_itself_stays_as_it_is_and_its_executor_is_only_let_go(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    pair.hear(run, pair.report(run).content)
    with pair.origin.store.transaction():
        pair.origin.store.runs.change(
            pair.run(run), RunChange(status=RunState.FAILED, finished_at_us=1, error="gave up")
        )
    before = state_of(pair.origin, run.run_id)
    ran(pair, run, "a", out=b"too late")

    pair.hear(run, pair.report(run).content)
    still_open = pair.remote(run).open
    pair.over(run)
    applied = pair.hear(run, pair.report(run).content)

    assert still_open
    assert not pair.remote(run).open
    assert not applied.changed
    assert state_of(pair.origin, run.run_id) == before


def test_logs_lie_in_a_folder_and_in_files_that_only_their_owner_reads(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a", out=b"secret")

    pair.hear(run, pair.report(run).content)

    folder = pair.origin.logfiles.folder(run.run_id)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "0.1.out").stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_a_log_file_is_not_followed(pair: Pair, tmp_path: Path) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a", out=b"secret")
    pair.origin.logfiles.prepare(run.run_id)
    (pair.origin.logfiles.folder(run.run_id) / "0.1.out").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError, match="cannot be written"):
        pair.hear(run, pair.report(run).content)

    assert not (tmp_path / "elsewhere").exists()


def test_unknown_fields_of_a_newer_program_are_passed_over(pair: Pair) -> None:
    run = pair.begun(pair.handed_over({"id": "a"}))
    ran(pair, run, "a", out=b"x")
    content = pair.report(run).content
    for part in (content, content["run"], content["tasks"][0], content["attempts"][0], content["logs"][0]):
        part["invented_later"] = [{"x": None}]

    assert pair.hear(run, content).changed
    assert pair.task(run, "a").status is TaskState.COMPLETED


# --- what is refused


class Zeros(NamedTuple):
    """So many bytes, packed when they are used: each worker of the tests reads the list below."""

    size: int


HUGE = 10**30
WRONG: list[tuple[str, Any, str]] = [
    ("", None, "report must be an object"),
    ("", [], "report must be an object"),
    ("run", None, "report.run must be"),
    ("run", "running", "report.run must be"),
    ("run.version", 0, "report.run.version"),
    ("run.version", True, "report.run.version"),
    ("run.version", HUGE, "report.run.version"),
    ("run.version", 2.0, "report.run.version"),
    ("run.status", "exploded", "report.run.status"),
    ("run.status", ["running"], "report.run.status"),
    ("run.worker_id", "../../etc", "report.run.worker_id"),
    ("run.worker_id", None, "report.run.worker_id"),
    ("run.started_at_us", -1, "report.run.started_at_us"),
    ("run.finished_at_us", "now", "report.run.finished_at_us"),
    ("run.error", "x" * (MAX_ERROR + 1), "report.run.error"),
    ("run.error", "\ud800", "report.run.error"),
    ("run.cancel_requested", 1, "report.run.cancel_requested"),
    ("tasks", None, "report.tasks must be a list"),
    ("tasks", {}, "report.tasks must be a list"),
    ("tasks", [{}] * 100_001, "report.tasks must be a list"),
    ("tasks.1", "b", r"report.tasks\[1\] must be an object"),
    ("tasks.1.no", 0, r"report.tasks\[1\].id and its number"),
    ("tasks.1.no", 2, r"report.tasks\[1\].id and its number"),
    ("tasks.1.no", -1, r"report.tasks\[1\].no"),
    ("tasks.1.no", HUGE, r"report.tasks\[1\].no"),
    ("tasks.1.id", "zzz", r"report.tasks\[1\].id and its number"),
    ("tasks.1.id", "a", r"report.tasks\[1\].id and its number"),
    ("tasks.1.id", ["a"], r"report.tasks\[1\].id"),
    ("tasks.1.status", "lost", r"report.tasks\[1\].status"),
    ("tasks.1.version", HUGE, r"report.tasks\[1\].version"),
    ("tasks.1.version", None, r"report.tasks\[1\].version"),
    ("tasks.1.attempts", -1, r"report.tasks\[1\].attempts"),
    ("tasks.1.failures", 2**40, r"report.tasks\[1\].failures"),
    ("tasks.1.exit_code", 2**33, r"report.tasks\[1\].exit_code"),
    ("tasks.1.retry_at_us", HUGE, r"report.tasks\[1\].retry_at_us"),
    ("tasks.1.outputs", ["x"], r"report.tasks\[1\].outputs"),
    ("tasks.1.outputs", {"x": 1}, r"report.tasks\[1\].outputs"),
    ("tasks.1.outputs", {"x": "\udfff"}, r"report.tasks\[1\].outputs"),
    ("tasks.1.outputs", {"x": "y" * (2**23 + 1)}, r"report.tasks\[1\].outputs"),
    ("tasks.1.blocked_by", "zzz", r"report.tasks\[1\].blocked_by"),
    ("tasks.1.blocked_by", 5, r"report.tasks\[1\].blocked_by"),
    ("attempts.1.id", "a", r"report.attempts\[1\].id and its number|report.tasks"),
    ("attempts.1.no", 7, "and its number"),
    ("attempts.1.attempt", 0, r"report.attempts\[1\].attempt"),
    ("attempts.1.attempt", 10**7, r"report.attempts\[1\].attempt"),
    ("attempts.1.status", "skipped", r"report.attempts\[1\].status"),
    ("attempts.1.epoch", None, r"report.attempts\[1\].epoch"),
    ("attempts.1.started_at_us", None, r"report.attempts\[1\].started_at_us"),
    ("attempts.1.stdout_tail", None, r"report.attempts\[1\].stdout_tail"),
    ("attempts.1.stderr_tail", "x" * 20_000, r"report.attempts\[1\].stderr_tail"),
    ("attempts.1.stdout_bytes", HUGE, r"report.attempts\[1\].stdout_bytes"),
    ("logs", "", "report.logs must be a list"),
    ("logs.1.no", 2, r"report.logs\[1\].no"),
    ("logs.1.no", -1, r"report.logs\[1\].no"),
    ("logs.1.no", "../0", r"report.logs\[1\].no"),
    ("logs.1.attempt", 0, r"report.logs\[1\].attempt"),
    ("logs.1.stream", "outputs", r"report.logs\[1\].stream"),
    ("logs.1.stream", "../out", r"report.logs\[1\].stream"),
    ("logs.1.offset", -1, r"report.logs\[1\].offset"),
    ("logs.1.offset", HUGE, r"report.logs\[1\].offset"),
    ("logs.1.offset", MAX_STREAM_BYTES, r"report.logs\[1\].data unpacks to more"),
    ("logs.1.last", "yes", r"report.logs\[1\].last"),
    ("logs.1.data", None, r"report.logs\[1\].data"),
    ("logs.1.data", "no base64!", r"report.logs\[1\].data is not zlib"),
    ("logs.1.data", "ä", r"report.logs\[1\].data is not zlib"),
    ("logs.1.data", base64.b64encode(b"no zlib").decode(), r"report.logs\[1\].data is not zlib"),
    ("logs.1.data", base64.b64encode(zlib.compress(b"short")[:-2]).decode(), r"report.logs\[1\].data is cut short"),
    ("logs.1.data", base64.b64encode(zlib.compress(b"x") * 2).decode(), r"report.logs\[1\].data is cut short"),
    ("logs.1.data", Zeros(MAX_STREAM_BYTES + 1), r"report.logs\[1\].data unpacks to more"),
    ("logs.1.data", Zeros(2**28), r"report.logs\[1\].data unpacks to more"),
]


def changed_at(content: dict[str, Any], path: str, value: Any) -> Any:
    """Return a report with another value at one place."""
    if not path:
        return value
    content = copy.deepcopy(content)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = content
    for step in way:
        at = at[step]
    at[last] = value
    return content


@pytest.fixture(scope="module")
def whole(pair: Pair) -> tuple[RunRecord, dict[str, Any]]:
    """A report that would change everything, of a run of which nothing was heard yet."""
    run = pair.begun(pair.handed_over({"id": "a"}, {"id": "b"}))
    for task_id in "ab":
        ran(pair, run, task_id, out=b"from " + task_id.encode())
    pair.over(run)
    return run, pair.report(run).content


@pytest.mark.parametrize(("path", "value", "place"), WRONG, ids=[f"{path} {value!r:.20}" for path, value, _ in WRONG])
def test_a_report_that_is_wrong_in_one_place_changes_nothing_and_the_place_is_named(
    pair: Pair, whole: tuple[RunRecord, dict[str, Any]], path: str, value: Any, place: str
) -> None:
    run, content = whole
    before = everything(pair.origin, run.run_id)
    if isinstance(value, Zeros):
        value = packed(bytes(value.size))

    with pytest.raises(MalformedMessageError, match=place) as caught:
        pair.hear(run, changed_at(content, path, value))

    assert everything(pair.origin, run.run_id) == before
    assert len(str(caught.value)) < 500


def test_many_small_bombs_in_one_report_are_refused_together(
    pair: Pair, whole: tuple[RunRecord, dict[str, Any]]
) -> None:
    run, content = whole
    bomb = {"no": 0, "stream": "out", "offset": 0, "data": packed(bytes(MAX_LOG_BYTES // 2))}
    before = everything(pair.origin, run.run_id)

    with pytest.raises(MalformedMessageError, match=r"report.logs\[2\].data unpacks to more"):
        pair.hear(run, {**content, "logs": [{**bomb, "attempt": number} for number in (1, 2, 3)]})

    assert everything(pair.origin, run.run_id) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLACES = sorted({path for path, _, _ in WRONG})


@settings(max_examples=150)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=2))
def test_whatever_stands_in_a_report_it_is_taken_as_a_whole_or_refused_as_malformed(
    pair: Pair, whole: tuple[RunRecord, dict[str, Any]], changes: list[tuple[str, Any]]
) -> None:
    content: Any = whole[1]
    for path, value in changes:
        try:
            content = changed_at(content, path, value)
        except (TypeError, IndexError, KeyError):  # the other change took that place away
            continue
    run = pair.handed_over({"id": "a"}, {"id": "b"})
    before = everything(pair.origin, run.run_id)

    try:
        applied = pair.hear(run, content)
    except MalformedMessageError:
        assert everything(pair.origin, run.run_id) == before
    else:
        assert applied.run == pair.run(run)
        assert {task.task_id for task in pair.origin.store.tasks.of_run(run.run_id)} == {"a", "b"}
        assert not applied.run.status.final or {
            task.status.final for task in pair.origin.store.tasks.of_run(run.run_id)
        } == {True}
