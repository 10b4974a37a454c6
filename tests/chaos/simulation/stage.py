"""The stage of one simulated history: virtual clocks, one source of chance, and who acts next.

Nothing here or on it looks at the real time, at real process numbers or at the order of a set, so a seed gives
the same history wherever and however often it is played.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Protocol

from cis.engine.times import Instant

START_US = 1_700_000_000_000_000
MAX_DEPTH = 2


class Actor(Protocol):
    """Somebody who does something when a time has come; ``busy`` while in the middle of it."""

    busy: bool

    @property
    def due_s(self) -> float: ...

    def act(self) -> None: ...


class Stage:
    """The time, the chance and the actors of one history."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - repeatable, which is the point
        self.folder = folder
        self.now_s = 1000.0
        self.jumped_us = 0
        self.steps = 0
        self.actors: list[Actor] = []
        self.history: list[str] = []
        self._depth = 0
        self._ids = 0

    def instant(self) -> Instant:
        """Return the moment on both clocks."""
        return Instant(START_US + round(self.now_s * 1e6) + self.jumped_us, self.now_s)

    def new_id(self) -> str:
        """Return an id that no other has."""
        self._ids += 1
        return f"r{self._ids:03}"

    def log(self, line: str) -> None:
        """Add a line to the history."""
        self.history.append(f"{self.now_s - 1000:9.4f}  {line}")

    def digest(self) -> str:
        """Return what tells this history from any other."""
        return hashlib.sha256("\n".join(self.history).encode()).hexdigest()

    def chance(self, probability: float) -> bool:
        """Whether something of that probability happens now."""
        return self.rng.random() < probability

    def next_due_s(self) -> float:
        """Return when the next actor has something to do; infinity when none."""
        return min((actor.due_s for actor in self.actors if not actor.busy), default=float("inf"))

    def step(self) -> None:
        """Let the actor whose turn it is act, at its time."""
        actor = min((actor for actor in self.actors if not actor.busy), key=lambda actor: actor.due_s)
        self.now_s = max(self.now_s, actor.due_s)
        self.steps += 1
        actor.busy = True
        try:
            actor.act()
        finally:
            actor.busy = False

    def let_others(self, for_s: float) -> None:
        """Let time pass in the middle of what somebody does, and the others act meanwhile."""
        until_s = self.now_s + for_s
        if self._depth < MAX_DEPTH:
            self._depth += 1
            try:
                while self.next_due_s() <= until_s:
                    self.step()
            finally:
                self._depth -= 1
        self.now_s = max(self.now_s, until_s)
