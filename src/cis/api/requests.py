"""What routes ask of a request: who sends it, its query parameters as values, and its line in the audit log.

An empty parameter counts as absent; all faults are reported in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from fastapi import Request

from cis.api.answers import QueryError
from cis.api.served import Rights
from cis.app.actor import Actor
from cis.errors import Fault
from cis.model.scope import Scope, parse_scope
from cis.model.scope_rules import Patterns
from cis.model.states import RunState
from cis.store.records import RunFilter

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def rights_of(request: Request) -> Rights:
    """Return what the gate let in: a token's name, rights and scopes."""
    rights: Rights = request.state.rights
    return rights


def scopes_of(request: Request) -> Patterns | None:
    """Return the scopes that whoever asks may see and use; None is all."""
    return rights_of(request).scopes


def source_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"


def actor_of(request: Request) -> Actor:
    """Return who acts, for the audit log."""
    return Actor(name=rights_of(request).actor, source=source_of(request))


class Query:
    """Reads parameters one by one, and collects what is wrong with them; ``check`` raises it."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters
        self._faults: list[Fault] = []

    def text(self, name: str) -> str | None:
        """Return a parameter as it is."""
        return self._parameters.get(name) or None

    def number(self, name: str, *, low: int, high: int) -> int | None:
        """Return a parameter as a number in these bounds."""
        return self._read(name, lambda text: _bounded(text, low=low, high=high))

    def flag(self, name: str) -> bool:
        """Return a parameter that is true or false, and false when absent."""
        return self._read(name, _flag) or False

    def scope(self, name: str) -> Scope | None:
        """Return a parameter as a scope, as in ``project:proj-a``."""
        return self._read(name, parse_scope)

    def state(self, name: str) -> RunState | None:
        """Return a parameter as a run's state."""
        return self._read(name, _state)

    def check(self) -> None:
        """Raise QueryError when something was wrong."""
        if self._faults:
            raise QueryError(self._faults)

    def _read(self, name: str, parse: Callable[[str], T]) -> T | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self._faults.append(Fault(place=f"query.{name}", message=str(error)))
            return None


def limit_of(query: Query) -> int:
    """Return how many items a page may have."""
    return query.number("limit", low=1, high=MAX_LIMIT) or DEFAULT_LIMIT


def run_filter_of(query: Query, *, scopes: Patterns | None = None) -> RunFilter:
    """Return what a list of runs is narrowed to, of those *scopes* that may be seen."""
    return RunFilter(
        status=query.state("status"),
        scope=query.scope("scope"),
        node=query.text("node"),
        dag_id=query.text("dag_id"),
        scopes=scopes,
    )


def _bounded(text: str, *, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
        raise ValueError(f"must be a number from {low} to {high}, not {text!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(f"must be true or false, not {text!r}")
    return _WORDS[text.lower()]


def _state(text: str) -> RunState:
    try:
        return RunState(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a state of a run; the states are {', '.join(RunState)}") from None
