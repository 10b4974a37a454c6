"""Who asks for something to be run: by what name, and in which scopes."""

from __future__ import annotations

from dataclasses import dataclass

from cis.errors import ScopeForbiddenError
from cis.model.scope import Scope
from cis.model.scope_patterns import Patterns, allows, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Somebody who hands a DAG in, as messages name them; ``scopes`` are those that they may use (None: all).

    With ``shares`` no more than a share of the queue is for them.
    """

    name: str = "the owner"
    scopes: Patterns | None = None
    shares: bool = False

    def check(self, scope: Scope) -> None:
        """Raise ScopeForbiddenError unless DAGs of *scope* may be run for this asker."""
        if not allows(self.scopes, scope):
            raise ScopeForbiddenError(str(scope), asker=self.name, allowed=listed(self.scopes))


OWNER = Asker()
