"""Which scope a DAG runs in, and which rule said so."""

from __future__ import annotations

import re

from cis.errors import AmbiguousScopeError, DocumentError, Fault
from cis.model.dag import DagSpec
from cis.model.ids import id_fault
from cis.model.scope import GLOBAL, Scope, ScopeSource, ScopeType

ENV_RULES = (("PROJECT_ID", ScopeType.PROJECT), ("USER_ID", ScopeType.USER))
TYPE_PREFIXES = ("backup", "deploy", "test", "build", "sync")
_PROJECT = re.compile(r"(?:proj|project)-([A-Za-z0-9._]+)-.+")
_USER = re.compile(r"user-([A-Za-z0-9._]+)-.+")


def infer_scope(spec: DagSpec) -> tuple[Scope, ScopeSource]:
    """Return the scope that *spec* runs in and the rule that decided.

    The first that is present: the author's own choice; ``PROJECT_ID``, then ``USER_ID``, in the environment of
    a task (the DAG's, with the task's own over it; an empty value counts as none); the prefix of the id. A DAG with
    none of them is global.

    Raises:
        AmbiguousScopeError: two tasks name different projects, or users.
        DocumentError: a value names no possible scope.
    """
    if spec.scope is not None:
        return spec.scope, ScopeSource.EXPLICIT
    for variable, scope_type in ENV_RULES:
        owner = _named_by_env(spec, variable)
        if owner is not None:
            return Scope(scope_type, owner), ScopeSource.ENV
    scope = scope_of_id(spec.dag_id)
    return (GLOBAL, ScopeSource.DEFAULT) if scope is None else (scope, ScopeSource.DAG_ID)


def scope_of_id(dag_id: str) -> Scope | None:
    """Return the scope that an id names by its prefix, as ``proj-a-nightly`` names project ``proj-a``."""
    if match := _PROJECT.fullmatch(dag_id):
        return Scope(ScopeType.PROJECT, f"proj-{match[1]}")
    if match := _USER.fullmatch(dag_id):
        return Scope(ScopeType.USER, f"user-{match[1]}")
    prefix, dash, _ = dag_id.partition("-")
    return Scope(ScopeType.TYPE, prefix) if dash and prefix in TYPE_PREFIXES else None


def scope_reason(scope: Scope, source: ScopeSource) -> str:
    """Return, as a sentence for people, why a DAG has its scope."""
    variable = next((name for name, kind in ENV_RULES if kind is scope.type), "")
    return {
        ScopeSource.EXPLICIT: f"the document says so: scope: {scope}",
        ScopeSource.ENV: f"{variable} in the environment of a task is {scope.id!r}",
        ScopeSource.DAG_ID: f"the id begins as those of {scope} do",
        ScopeSource.DEFAULT: "nothing names a project, a user or a type",
    }[source]


def _named_by_env(spec: DagSpec, variable: str) -> str | None:
    first: tuple[str, str] | None = None
    for number, task in enumerate(spec.tasks):
        value = task.env.get(variable, spec.env.get(variable, ""))
        if not value:
            continue
        fault = id_fault(value)
        if fault:
            place = f"tasks[{number}].env.{variable}" if variable in task.env else f"env.{variable}"
            raise DocumentError([Fault(place=place, message=f"names the scope, and so {fault}")])
        if first is not None and first[1] != value:
            raise AmbiguousScopeError(variable, first, (task.id, value))
        first = first or (task.id, value)
    return None if first is None else first[1]
