"""The JSON Schema says the same as the reader of documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import DocumentError
from cis.model.document import dag_from_plain
from cis.model.schema import dag_schema

SCHEMA = dag_schema()
KEPT = Path(__file__).parents[2] / "src" / "cis" / "model" / "dag.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# What stands between two tasks is no matter of a schema, so there is one task.
ids = st.sampled_from(["a", "a.b-c_d", "..", "a..b", "", "-a", "a/b", "x" * 128, "x" * 129])
durations = st.sampled_from([0, 1.5, -1, "10s", " 5 m ", ".5", "1.", ".", "1w", "1.2.3", "", "10S", True, []])
env = st.dictionaries(
    st.sampled_from(["A", "_a1", "a.b", "CIS_X", "1A", "A=B", "", "A B"]),
    st.sampled_from(["", "x", 1, 1.5, True, [], {}]),
    max_size=2,
)
tries: dict[str, st.SearchStrategy[Any]] = {
    "max_retries": st.sampled_from([0, 1000, 1001, -1, "1", True]),
    "retry_delay": durations,
    "retry_backoff": st.sampled_from(["constant", "exponential", "linear", 1]),
    "max_losses": st.sampled_from([0, 1000, 1001, -1, 1.5, True]),
    "on_lost": st.sampled_from(["retry", "fail", "ignore"]),
    "leave": st.sampled_from([True, False, "yes", 1]),
}
tasks = st.fixed_dictionaries(
    {},
    optional={
        "id": ids,
        "command": st.sampled_from(["true", "", "  ", ["a"], [], ["a", 1, "b"], {}, 1]),
        "skill": ids,
        "type": st.sampled_from(["shell", "skill", "python"]),
        "params": st.sampled_from([{}, {"a": [1]}, [], "x"]),
        "depends_on": st.sampled_from([[], "a"]),
        "deps": st.sampled_from([[], {}]),
        "env": env,
        "cwd": st.sampled_from(["x", "", " ", 1]),
        "unknown": st.just(1),
        **tries,
    },
)
scopes = st.sampled_from(["global", "project:p", "project", "project:..", "team:x"]) | st.fixed_dictionaries(
    {},
    optional={"type": st.sampled_from(["global", "project", "user", "type", "team"])}
    | {key: st.sampled_from(["u", "..", 1]) for key in ("project_id", "user_id", "dag_type", "x")},
)
documents = st.fixed_dictionaries(
    {"dag_id": ids, "tasks": st.lists(tasks, max_size=1)},
    optional={
        "scope": scopes,
        "priority": st.sampled_from(["low", "URGENT", "Medium", "higher", 1]),
        "description": st.sampled_from(["", "text", 1]),
        "env": env,
        "max_parallel": st.sampled_from([1, 0, 100_000, 100_001, "1", True]),
        "labels": st.sampled_from([[], ["gpu"], ["a"] * 33, ["a b"], "gpu"]),
        "expires": st.sampled_from(["1h", 5, "soon", None]),
        "target_node": ids,
        "defaults": st.fixed_dictionaries({}, optional=tries),
    },
)


@given(documents)
def test_the_reader_and_the_schema_accept_the_same_documents(document: dict[str, Any]) -> None:
    try:
        dag_from_plain(document)
        read = True
    except DocumentError:
        read = False

    assert VALIDATOR.is_valid(document) == read, list(VALIDATOR.iter_errors(document))


def test_the_schema_is_one_describes_every_field_and_its_example_is_a_document() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    assert VALIDATOR.is_valid(SCHEMA["examples"][0])
    assert dag_from_plain(SCHEMA["examples"][0]).dag_id == "proj-a-nightly"
    for part in (SCHEMA, SCHEMA["$defs"]["TaskDocument"], SCHEMA["$defs"]["Tries"]):
        assert part["additionalProperties"] is False
        assert all(field.get("description") or "$ref" in field for field in part["properties"].values())


@pytest.mark.parametrize(
    "task",
    [
        {"id": "a", "command": "x", "skill": "y"},
        {"id": "a", "command": "x", "params": {}},
        {"id": "a", "command": "x", "type": "skill"},
        {"id": "a", "skill": "x", "type": "shell"},
        {"id": "a", "command": "x", "depends_on": [], "deps": []},
        {"id": "a"},
    ],
)
def test_fields_that_exclude_each_other_do_so_in_the_schema_too(task: dict[str, Any]) -> None:
    document = {"dag_id": "d", "tasks": [task]}

    assert not VALIDATOR.is_valid(document)
    with pytest.raises(DocumentError):
        dag_from_plain(document)


def test_the_schema_that_the_package_holds_is_the_one_that_documents_are_read_by() -> None:
    """After a change of a field: ``python -c 'from tests.model.test_schema import keep; keep()'``."""
    assert KEPT.read_text(encoding="utf-8") == text_of(SCHEMA)


def text_of(schema: object) -> str:
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"


def keep() -> None:
    KEPT.write_text(text_of(SCHEMA), encoding="utf-8")
