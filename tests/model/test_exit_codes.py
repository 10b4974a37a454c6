"""What a task may say of its exit statuses, and what is refused, with its place."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from cis.errors import DocumentError
from cis.model.document import dag_from_plain
from cis.model.schema import dag_schema

TASK: dict[str, Any] = {"id": "a", "command": "true"}


def faults(**fields: Any) -> dict[str, str]:
    """Return the faults of a task with these fields, by place."""
    with pytest.raises(DocumentError) as raised:
        dag_from_plain({"dag_id": "d", "tasks": [{**TASK, **fields}]})
    return {fault.place.removeprefix("tasks[0]."): fault.message for fault in raised.value.faults}


@pytest.mark.parametrize(
    ("fields", "place", "words"),
    [
        ({"success_codes": 24}, "success_codes", r"as \[24\], not a number"),
        ({"success_codes": []}, "success_codes", "is empty"),
        ({"success_codes": ["0"]}, "success_codes", "not a string"),
        ({"skip_codes": [True]}, "skip_codes", "not true or false"),
        ({"skip_codes": [256]}, "skip_codes", "from 0 to 255, not 256"),
        ({"retry_codes": [-9]}, "retry_codes", "not -9"),
        ({"success_codes": [0, 24], "skip_codes": [24]}, "skip_codes", "holds 24, and so does success_codes"),
        ({"skip_codes": [9], "retry_codes": [9]}, "retry_codes", "holds 9, and so does skip_codes"),
        ({"success_codes": [3], "retry_codes": [3]}, "retry_codes", "holds 3, and so does success_codes"),
        ({"skip_codes": [0]}, "skip_codes", "holds 0, which is success unless success_codes"),
        (
            {"skip_codes": [9], "allow_failure": {"exit_codes": [9]}},
            "allow_failure",
            "not a failure, since skip_codes has it",
        ),
        ({"allow_failure": "yes"}, "allow_failure", "must be true, false or"),
        ({"allow_failure": {"exit_code": [1]}}, "allow_failure", "did you mean 'exit_codes'"),
        ({"allow_failure": {"exit_codes": [1, "2"]}}, "allow_failure", "exit_codes must hold whole numbers"),
        ({"allow_failure": {}}, "allow_failure", "write true for any failure"),
        ({"success_code": [1]}, "success_code", "did you mean 'success_codes'"),
    ],
)
def test_what_makes_no_sense_of_exit_statuses_is_refused(fields: dict[str, Any], place: str, words: str) -> None:
    found = faults(**fields)

    assert list(found) == [place]
    assert re.search(words, found[place]), found


def test_all_faults_are_told_at_once_and_a_dag_as_a_task_has_no_exit_status_of_its_own() -> None:
    assert set(faults(success_codes=[], skip_codes=[300], allow_failure=1)) == {
        "success_codes",
        "skip_codes",
        "allow_failure",
    }
    with pytest.raises(DocumentError, match="a DAG as a task has none"):
        dag_from_plain(
            {"dag_id": "d", "tasks": [{"id": "a", "skill": "dag", "params": {"dag_id": "x"}, "skip_codes": [9]}]}
        )


def test_a_status_may_be_tried_again_and_allowed_and_success_may_leave_out_0() -> None:
    given = {"success_codes": [24], "skip_codes": [0], "retry_codes": [75], "allow_failure": {"exit_codes": [75, 1]}}
    plain = {"dag_id": "d", "tasks": [{**TASK, **given}]}
    task = dag_from_plain(plain).tasks[0]

    jsonschema.validate(plain, dag_schema())
    assert task.good_codes == (24, 0)
    assert [task.allows(code) for code in (75, 1, 2, None)] == [True, True, False, False]
    assert dag_from_plain({"dag_id": "d", "tasks": [TASK]}).tasks[0].good_codes == ()
