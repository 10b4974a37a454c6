"""How many attempts of a worker may run at once: its slots, and fewer while the machine is short of something."""

from __future__ import annotations

import logging

from cis.engine.parts import Held
from cis.engine.ports import Executor
from cis.engine.shortage import FIRST_PAUSE_S, Shortage

log = logging.getLogger(__name__)

SAY_AGAIN_S = 60.0


def room_for(held: Held, *, slots: int, wanted: bool, now_s: float) -> int:
    """Return how many attempts may run; that something was short is forgotten once nothing waits for it."""
    short = held.short
    if short is None:
        return slots
    if not wanted or short.most >= slots:
        held.short = None
        return slots
    return 0 if held.unjudged else min(slots, short.room(now_s))


def fall_short(held: Held, short_of: str, *, now_s: float) -> None:
    """Have fewer attempts run at once, since the machine is short of something; said once a minute at most."""
    running = len(held.live)
    if held.short is not None:
        held.short.again(short_of, running=running, now_s=now_s)
        return
    held.short = Shortage(short_of, running, now_s + FIRST_PAUSE_S)
    if now_s >= held.say_short_s:
        held.say_short_s = now_s + SAY_AGAIN_S
        log.warning("the machine is short of something; what cannot start waits", extra={"short_of": short_of})


def probe(held: Held, executor: Executor, *, now_s: float) -> None:
    """When the pause is over, see whether a process could be started, before a task is tried again."""
    if held.short is None or held.short.due_s > now_s:
        return
    short_of = executor.shortage()
    if short_of is not None:
        fall_short(held, short_of, now_s=now_s)
