"""Where a submission happens: the node, what it knows, and the clock and ids it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cis.engine.times import DELIVER_WITHIN_S, LEASE_S
from cis.model.scope_rules import NO_RULES, ScopeRules, ScopeTable, rules_of

if TYPE_CHECKING:
    from cis.engine.ports import SecretBook, SkillBook
    from cis.model.scope import Scope

MAX_DEPTH = 8  # DAGs within DAGs


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisNode:
    """The node that accepts a DAG. Clock and ids are passed in, so tests decide them.

    ``has_room`` says that messages can go by a room; ``offers``, that a DAG which names no node is offered there.
    ``deliver_within_s`` is how long one may take to reach its node when its document does not say; ``lease_s``, how
    long a node that was granted one may be silent (``cis.federation.origin.arbiter``); ``boot_id`` names this life of
    the machine, and ``uptime_us`` is how long it lasts: a clock that nobody sets, and that goes on while the machine
    sleeps. ``max_descendants`` bounds the runs below one, ``max_recursion`` how often a DAG may stand below itself by
    its name. ``scopes`` are the tables of what holds for some scopes, ``labels`` are the node's own; ``secrets`` knows which of them each scope may
    have.
    """

    node_id: str
    skills: SkillBook
    clock_us: Callable[[], int]
    new_id: Callable[[], str]
    uptime_us: Callable[[], int]
    max_queued: int = 100_000
    max_descendants: int = 10_000
    max_recursion: int = 0
    has_room: bool = False
    offers: bool = False
    deliver_within_s: float = DELIVER_WITHIN_S
    lease_s: float = LEASE_S
    boot_id: str = ""
    scopes: Sequence[ScopeTable] = ()
    labels: Sequence[str] = ()
    secrets: SecretBook | None = None

    def rules_of(self, scope: Scope) -> ScopeRules:
        """Return what holds here for a scope besides the defaults."""
        return rules_of(self.scopes, scope) if self.scopes else NO_RULES


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A worker id under one epoch: the name that every write is checked against."""

    node_id: str
    worker_id: str
    epoch: int
