"""Where a submission happens: the node, what it knows, and the clock and ids it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cis.engine.ports import SkillBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The node that accepts a DAG. Clock and ids are passed in, so tests decide them."""

    node_id: str
    skills: SkillBook
    clock_us: Callable[[], int]
    new_id: Callable[[], str]
    max_queued: int = 100_000

    def known_nodes(self) -> Sequence[str]:
        """Return the nodes that ``target_node`` may name."""
        return (self.node_id,)


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A worker id under one epoch: the name that every write is checked against."""

    node_id: str
    worker_id: str
    epoch: int
