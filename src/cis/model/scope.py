"""Scopes: whom a DAG belongs to, and so which worker runs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cis.model.fields import Kind
from cis.model.ids import did_you_mean, id_fault
from cis.model.kinds import ID_SCHEMA, read_id, read_text


class ScopeType(StrEnum):
    """The four kinds of owner that a worker can have."""

    GLOBAL = "global"
    PROJECT = "project"
    USER = "user"
    TYPE = "type"


class ScopeSource(StrEnum):
    """The rule that decided a scope, in order of precedence."""

    EXPLICIT = "explicit"
    ENV = "env"
    DAG_ID = "dag_id"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Scope:
    """A kind of owner and its id; the global scope alone has none (``id == ""``).

    Raises:
        ValueError: the id is missing, superfluous or not an identifier.
    """

    type: ScopeType
    id: str = ""

    def __post_init__(self) -> None:
        if self.type is ScopeType.GLOBAL:
            if self.id:
                raise ValueError(f"scope global takes no id; leave {self.id!r:.140} out")
            return
        fault = id_fault(self.id)
        if fault:
            raise ValueError(f"scope {self.type}: the id {fault}")

    def __str__(self) -> str:
        return f"{self.type}:{self.id}" if self.id else str(self.type)

    @property
    def worker_id(self) -> str:
        """The one worker of this scope on a node, as in ``worker-project-proj-a``."""
        return f"worker-{self.type}-{self.id}" if self.id else f"worker-{self.type}"

    def to_dict(self) -> dict[str, str | None]:
        """Return the JSON form, ``{"type": …, "id": … | null}``."""
        return {"type": str(self.type), "id": self.id or None}


GLOBAL = Scope(ScopeType.GLOBAL)
_KINDS = frozenset(ScopeType)
_ID_KEYS = {"project_id": ScopeType.PROJECT, "user_id": ScopeType.USER, "dag_type": ScopeType.TYPE}


def parse_scope(text: str) -> Scope:
    """Return the scope that ``global`` or ``<type>:<id>`` spells.

    Raises:
        ValueError: another form; the message says which forms there are.
    """
    kind, colon, owner = text.partition(":")
    try:
        scope_type = ScopeType(kind)
    except ValueError:
        raise ValueError(f"{text!r:.140} is no scope; write global, project:<id>, user:<id> or type:<id>") from None
    if colon and not owner:
        raise ValueError(f"{text!r} lacks the id after the colon")
    return Scope(scope_type, owner)


def parse_worker_id(text: str) -> Scope:
    """Return the scope whose worker is called *text*.

    Raises:
        ValueError: no worker can have that name.
    """
    prefix, _, rest = text.partition("-")
    kind, _, owner = rest.partition("-")
    if prefix != "worker" or kind not in _KINDS:
        raise ValueError(f"{text!r:.140} is no worker id; they look like worker-project-<id> or worker-global")
    return Scope(ScopeType(kind), owner)


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
        raise ValueError(f"type {value['type']!r:.60} is none of global, project, user, type")
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
