"""A record that crosses between nodes has one form and one check, whichever message carries it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cis.errors import MalformedMessageError
from cis.federation.records import MAX_ERROR, read_task, task_fields
from cis.federation.requested import _kept, progress_of
from cis.model.document import dag_from_plain
from cis.model.message import Fields
from cis.model.states import Outcome, TaskState
from cis.store.records import TaskRecord

SPEC = dag_from_plain({"dag_id": "d", "tasks": [{"id": "t0", "command": "true"}]})
TASK = TaskRecord(
    run_id="r",
    task_no=0,
    task_id="t0",
    status=TaskState.FAILED,
    version=4,
    attempts=2,
    failures=1,
    exit_code=3,
    started_at_us=5,
    finished_at_us=9,
    outputs={"v": "1"},
    error="exit status 3",
    blocked_by=None,
    due_at_us=None,
    outcome=Outcome.ALLOWED,
)


def test_a_task_looks_the_same_in_progress_and_in_a_report_but_for_the_version_that_progress_is_ahead() -> None:
    (told,) = progress_of([TASK])

    assert told == {**task_fields(TASK), "version": 5}
    assert _kept([told], SPEC) == {"t0": TASK._replace(run_id="", version=5)}
    assert read_task(Fields(task_fields(TASK), "report.tasks[0]"), run_id="r", task_no=0) == TASK


@pytest.mark.parametrize(
    "fault",
    [
        {"version": 0},
        {"version": True},
        {"attempts": -1},
        {"failures": 10**7},
        {"exit_code": 2**40},
        {"started_at_us": 2**60},
        {"retry_at_us": "soon"},
        {"status": "lost"},
        {"outputs": ["v"]},
        {"error": 5},
        {"blocked_by": "x" * 1000},
    ],
    ids=str,
)
def test_what_is_wrong_in_a_task_is_refused_for_the_same_reason_in_both(fault: dict[str, Any]) -> None:
    wrong = {**task_fields(TASK), **fault}
    with pytest.raises(MalformedMessageError) as in_progress:
        _kept([wrong], SPEC)
    with pytest.raises(MalformedMessageError) as in_report:
        read_task(Fields(wrong, "report.tasks[0]"), run_id="r", task_no=0)

    assert str(in_progress.value).removeprefix("progress[0]") == str(in_report.value).removeprefix("report.tasks[0]")


def test_a_long_error_is_clipped_when_it_is_sent_and_when_a_node_of_before_sent_it_whole() -> None:
    long = TASK._replace(error="x" * (MAX_ERROR + 1))

    assert len(str(task_fields(long)["error"])) == MAX_ERROR
    assert len(str(_kept([{**task_fields(TASK), "error": long.error}], SPEC)["t0"].error)) == MAX_ERROR


def test_outputs_cross_as_texts_and_are_what_they_were_on_the_other_side() -> None:
    outputs = {"text": '{"a": 1}', "number": 0.1, "list": [None, "ü"], "none": None, "yes": True}
    told = json.loads(json.dumps(task_fields(TASK._replace(outputs=outputs))))

    assert all(isinstance(value, str) for value in told["outputs"].values())
    assert read_task(Fields(told), run_id="r", task_no=0).outputs == outputs
    del told["output_types"]  # as a node of before tells it
    assert read_task(Fields(told), run_id="r", task_no=0).outputs["number"] == "0.1"
