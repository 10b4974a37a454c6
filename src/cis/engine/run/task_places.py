"""A worker's use of the machine's places for tasks, which the workers of all scopes share (``[node] max_tasks``).

Each attempt has a place from before its start is stored until it has ended. A worker whose task ends and whose next one
starts in the same turn keeps the place, and does nothing about it; but when ``SLICE_S`` have passed and a scope that
has no place at all waits for one, it passes the place on, and asks for one again later. While all places are taken it
asks for one again every ``ASK_AGAIN_S``; nobody tells it that one is free.
"""

from __future__ import annotations

import math
from typing import Protocol

ASK_AGAIN_S = 0.05
SAY_AFTER_S = 1.0
SLICE_S = 0.5


class Places(Protocol):
    """The places that one worker has. What is dead has none."""

    @property
    def most(self) -> int:
        """How many there are for all workers."""
        ...

    @property
    def held(self) -> int:
        """How many this worker has."""
        ...

    @property
    def borrowed(self) -> bool:
        """Whether one of them is that which is kept for scopes that run nothing."""
        ...

    @property
    def waits(self) -> bool:
        """Whether this worker has none, and others are told that it waits for one."""
        ...

    def take(self) -> bool:
        """Take one more place, and return whether there was one; who has none and gets none *waits* from then on."""
        ...

    def wait_no_more(self) -> None:
        """Let others know that none is wanted any more."""
        ...

    def others_wait(self) -> bool:
        """Whether another worker waits that has none. Not to be asked by one that waits itself."""
        ...

    def keep(self, number: int) -> None:
        """Give back all but *number*."""
        ...

    def give_back_borrowed(self) -> None:
        """Exchange the one that is kept for scopes that run nothing for another, if one is free."""
        ...


class NoBound:
    """Places without end."""

    most = 0
    held = 0
    borrowed = False
    waits = False

    def wait_no_more(self) -> None:
        """Nobody waits."""

    def others_wait(self) -> bool:
        """Nobody does."""
        return False

    def take(self) -> bool:
        """There is always one more."""
        self.held += 1
        return True

    def keep(self, number: int) -> None:
        """Give back all but *number*."""
        self.held = min(self.held, number)

    def give_back_borrowed(self) -> None:
        """None of them is."""


class PlaceUse:
    """Takes a place for each attempt, and remembers since when there has been none."""

    __slots__ = ("_before_s", "_pass_on_s", "_passed_on", "_places", "blocked_s", "due_s")

    def __init__(self, places: Places) -> None:
        self._places = places
        self.blocked_s: float | None = None
        self._before_s: float | None = None
        self.due_s = math.inf
        self._pass_on_s = -math.inf  # until then no place is passed on
        self._passed_on = False

    def allows(self, running: int, *, now_s: float) -> bool:
        """Whether there is a place for each of *running* attempts; one that lacks is taken if it can be."""
        if self._places.held >= running or (not self._passed_on and self._take(now_s)):
            return True
        if self.blocked_s is None:
            self.blocked_s = now_s if self._before_s is None else self._before_s
        self.due_s = min(self.due_s, now_s + ASK_AGAIN_S)
        return False

    def ask_again(self, running: int, *, now_s: float) -> bool:
        """Ask for the place that lacks when it is time; return whether there is one now."""
        if self.blocked_s is None and not self._places.borrowed:
            self.due_s = math.inf
            return False
        if self._places.borrowed and self.due_s == math.inf:
            self.due_s = now_s + ASK_AGAIN_S
        if now_s >= self.due_s:
            self.due_s = now_s + ASK_AGAIN_S
            if self._places.borrowed:
                self._places.give_back_borrowed()
            if self.blocked_s is not None and self._places.held <= running:
                self._take(now_s)
        return self.blocked_s is not None and self._places.held > running

    def begin(self, running: int, *, now_s: float) -> None:
        """Find out anew whether one lacks; since when is remembered. What has become free may be due to others."""
        self._before_s, self.blocked_s = self.blocked_s, None
        self._passed_on = False
        if self._places.held <= running or now_s < self._pass_on_s:
            return
        self._passed_on = self._places.others_wait()
        self._pass_on_s = now_s + (SLICE_S if self._passed_on else ASK_AGAIN_S)
        if self._passed_on:
            self._places.keep(running)

    def spare(self, running: int, *, now_s: float) -> int | None:
        """Return how many places are spare beside *running* attempts; None: others may wait for them, so ask first."""
        return self._places.held - running if now_s < self._pass_on_s or not self._places.most else None

    def keep(self, running: int) -> None:
        """Give back what *running* attempts do not need."""
        if self._places.waits and self.blocked_s is None:
            self._places.wait_no_more()
        if self._places.held > running:
            self._places.keep(running)

    def words(self, now_s: float) -> str | None:
        """Return what is waited for, once it has been for a while."""
        if self.blocked_s is None or now_s < self.blocked_s + SAY_AFTER_S:
            return None
        most = self._places.most
        return f"all {most} places for tasks are taken, or kept for idle scopes; wait, or set max_tasks higher ([node] in cis.toml)"

    def _take(self, now_s: float) -> bool:
        """Take one more; the first is kept for a while."""
        if not self._places.held:
            self._pass_on_s = now_s + SLICE_S
        return self._places.take()
