"""Scope inference: a table of cases, and precedence as a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.errors import AmbiguousScopeError, DocumentError
from cis.model.dag import DagSpec, TaskSpec
from cis.model.inference import infer_scope, scope_reason
from cis.model.scope import GLOBAL, Scope, ScopeSource, ScopeType, parse_scope, parse_worker_id


def dag(dag_id: str, *envs: dict[str, str], scope: Scope | None = None, env: dict[str, str] | None = None) -> DagSpec:
    """Return a DAG with one task for each environment."""
    tasks = tuple(TaskSpec(id=f"t{number}", command="x", env=one) for number, one in enumerate(envs or ({},)))
    return DagSpec(dag_id=dag_id, tasks=tasks, scope=scope, env=env or {})


@pytest.mark.parametrize(
    ("dag_id", "expected"),
    [
        ("proj-a-nightly", "project:proj-a"),
        ("project-a-nightly", "project:proj-a"),
        ("proj-a-b-c", "project:proj-a"),
        ("user-123-sync", "user:user-123"),
        ("backup-home", "type:backup"),
        ("deploy-x", "type:deploy"),
        ("test-x", "type:test"),
        ("build-x", "type:build"),
        ("sync-x", "type:sync"),
        ("proj--x", "global"),
        ("proj-a-", "global"),
        ("projector-a-b", "global"),
        ("backup", "global"),
        ("backups-x", "global"),
        ("nightly", "global"),
    ],
)
def test_the_id_names_the_scope_by_its_prefix(dag_id: str, expected: str) -> None:
    scope, source = infer_scope(dag(dag_id))

    assert str(scope) == expected
    assert source is (ScopeSource.DEFAULT if expected == "global" else ScopeSource.DAG_ID)


def test_the_environment_decides_before_the_id_and_a_project_before_a_user() -> None:
    assert infer_scope(dag("user-1-x", {"PROJECT_ID": "proj-a"}))[0] == Scope(ScopeType.PROJECT, "proj-a")
    assert infer_scope(dag("x", {"USER_ID": "u"}, {"PROJECT_ID": "p"}))[0] == Scope(ScopeType.PROJECT, "p")
    assert infer_scope(dag("x", {"USER_ID": "u"}))[0] == Scope(ScopeType.USER, "u")
    assert infer_scope(dag("x", env={"PROJECT_ID": "p"}))[0] == Scope(ScopeType.PROJECT, "p")
    assert infer_scope(dag("x", {"PROJECT_ID": ""}))[1] is ScopeSource.DEFAULT


def test_two_projects_are_refused_with_both_sides_named_unless_the_scope_is_explicit() -> None:
    two: tuple[dict[str, str], ...] = ({"PROJECT_ID": "a"}, {}, {"PROJECT_ID": "b"})
    with pytest.raises(AmbiguousScopeError, match=r"'t0' has PROJECT_ID='a' but task 't2' has PROJECT_ID='b'.*scope:"):
        infer_scope(dag("x", *two))

    assert infer_scope(dag("x", *two, scope=GLOBAL)) == (GLOBAL, ScopeSource.EXPLICIT)


def test_a_project_that_is_no_id_is_refused_with_its_place() -> None:
    with pytest.raises(DocumentError, match=r"tasks\[0\]\.env\.PROJECT_ID"):
        infer_scope(dag("x", {"PROJECT_ID": "../etc"}))


ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
scopes = st.builds(Scope, st.sampled_from([ScopeType.PROJECT, ScopeType.USER, ScopeType.TYPE]), ids) | st.just(GLOBAL)


@given(scope=scopes)
def test_scopes_and_worker_ids_are_read_back_as_they_were_written(scope: Scope) -> None:
    assert parse_scope(str(scope)) == scope
    assert parse_worker_id(scope.worker_id) == scope


@given(
    dag_id=ids | st.sampled_from(["proj-a-x", "user-b-x", "backup-c"]),
    explicit=st.none() | scopes,
    project=st.none() | ids,
    user=st.none() | ids,
)
def test_the_first_rule_that_applies_decides(
    dag_id: str, explicit: Scope | None, project: str | None, user: str | None
) -> None:
    env = {name: value for name, value in (("PROJECT_ID", project), ("USER_ID", user)) if value is not None}
    scope, source = infer_scope(dag(dag_id, {}, env, scope=explicit))

    if explicit is not None:
        assert (scope, source) == (explicit, ScopeSource.EXPLICIT)
    elif project is not None:
        assert (scope, source) == (Scope(ScopeType.PROJECT, project), ScopeSource.ENV)
    elif user is not None:
        assert (scope, source) == (Scope(ScopeType.USER, user), ScopeSource.ENV)
    else:
        assert source in (ScopeSource.DAG_ID, ScopeSource.DEFAULT)
        assert (scope == GLOBAL) == (source is ScopeSource.DEFAULT)
    assert scope_reason(scope, source)
