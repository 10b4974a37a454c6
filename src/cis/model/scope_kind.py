"""How a document spells a scope, and how it is stored: the kind of the field ``scope`` (``cis.model.fields``)."""

from __future__ import annotations

from typing import Any

from cis.model.fields import Kind
from cis.model.ids import did_you_mean
from cis.model.kinds import ID_SCHEMA, read_id, read_text
from cis.model.scope import Scope, ScopeType, parse_scope

_ID_KEYS = {"project_id": ScopeType.PROJECT, "user_id": ScopeType.USER, "dag_type": ScopeType.TYPE}


def _read_scope(value: Any) -> Scope:
    if not isinstance(value, dict):
        return parse_scope(read_text(value))
    unknown = [key for key in value if key not in ("type", "id", *_ID_KEYS)]
    if unknown:
        raise ValueError(
            f"has the unknown field {unknown[0]!r:.60}{did_you_mean(unknown[0], ('type', 'id', *_ID_KEYS))}"
        )
    if "type" not in value:
        raise ValueError("lacks type: global, project, user or type")
    name = read_text(value["type"]).lower()
    if name not in set(ScopeType):
        raise ValueError(f"type {value['type']!r:.60} is not one of global, project, user, type")
    kind = ScopeType(name)
    owners = set()
    for key in ("id", *_ID_KEYS):
        if value.get(key) is None:
            continue
        if key in _ID_KEYS and _ID_KEYS[key] is not kind:
            raise ValueError(f"{key} does not go with type {kind}")
        owners.add(read_id(value[key]))
    if len(owners) > 1:
        raise ValueError(f"names two ids: {' and '.join(sorted(owners))}")
    return Scope(kind, next(iter(owners), ""))


def _stored_scope(value: Any) -> Scope | None:
    return None if value is None else parse_scope(value)


def _scope_object(kind: ScopeType, key: str | None) -> dict[str, Any]:
    known: dict[str, Any] = {"type": {"const": str(kind)}, "id": ID_SCHEMA if key else {"type": "null"}}
    schema = {"type": "object", "required": ["type"], "additionalProperties": False}
    if key is None:
        return schema | {"properties": known}
    owner = [{"required": ["id"]}, {"required": [key]}]
    return schema | {"properties": known | {key: ID_SCHEMA}, "anyOf": owner}


SCOPE = Kind(
    _read_scope,
    {
        "description": "Whom the DAG belongs to; without it the scope is inferred.",
        "anyOf": [
            {
                "type": "string",
                "pattern": r"^(global|(project|user|type):[A-Za-z0-9][A-Za-z0-9._-]{0,127})$",
                "not": {"pattern": r"\.\."},
            },
            _scope_object(ScopeType.GLOBAL, None),
            *(_scope_object(kind, key) for key, kind in _ID_KEYS.items()),
        ],
        "examples": ["project:proj-a", {"type": "user", "user_id": "user-123"}],
    },
    lambda value: isinstance(value, Scope),
    str,
    _stored_scope,
)
