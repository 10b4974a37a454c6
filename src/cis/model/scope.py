"""Scopes: whom a DAG belongs to, and so which worker runs it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from cis.model.ids import id_fault


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


class _ScopeParts(NamedTuple):
    type: ScopeType
    id: str


class Scope(_ScopeParts):
    """A kind of owner and its id; the global scope alone has none (``id == ""``).

    Raises:
        ValueError: the id is missing, superfluous or not an identifier.
    """

    __slots__ = ()

    def __new__(cls, type: ScopeType, id: str = "") -> Scope:  # noqa: A002 - its fields
        """Return the scope, if it can be one."""
        if type is not ScopeType.GLOBAL:
            fault = id_fault(id)
            if fault:
                raise ValueError(f"scope {type}: the id {fault}")
        elif id:
            raise ValueError(f"scope global takes no id; leave {id!r:.140} out")
        return super().__new__(cls, type, id)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}" if self.id else str(self.type)

    @property
    def in_one_place(self) -> bool:
        """Whether its work belongs on one node at a time: that of a project or a user does."""
        return self.type in _IN_ONE_PLACE

    @property
    def worker_id(self) -> str:
        """The one worker of this scope on a node, as in ``worker-project-proj-a``."""
        return f"worker-{self.type}-{self.id}" if self.id else f"worker-{self.type}"

    def to_dict(self) -> dict[str, str | None]:
        """Return the JSON form, ``{"type": …, "id": … | null}``."""
        return {"type": str(self.type), "id": self.id or None}


GLOBAL = Scope(ScopeType.GLOBAL)
_IN_ONE_PLACE = (ScopeType.PROJECT, ScopeType.USER)
_KINDS = frozenset(ScopeType)


def parse_scope(text: str) -> Scope:
    """Return the scope that ``global`` or ``<type>:<id>`` spells.

    Raises:
        ValueError: another form; the message says which forms there are.
    """
    kind, colon, owner = text.partition(":")
    try:
        scope_type = ScopeType(kind)
    except ValueError:
        raise ValueError(f"{text!r:.140} is not a scope; write global, project:<id>, user:<id> or type:<id>") from None
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
        raise ValueError(f"{text!r:.140} is not a worker id; those look like worker-project-<id> or worker-global")
    return Scope(ScopeType(kind), owner)
