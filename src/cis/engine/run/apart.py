"""A turn of a worker's loop in which each run has a transaction of its own, after the store has refused a row.

A row can be refused for good, because it is too large or breaks a rule of the tables. A transaction that holds it fails
however often it is tried, and with it the work of every other run of the scope. A store that refuses a row is not down:
the lease is renewed, and the other runs go on. The run whose turn is refused ``MOST_REFUSALS`` times, with its rows
read anew each time, is set aside with the reason. Any other error means that the store is down, and is raised.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from cis.engine.run.adoption import set_aside
from cis.engine.run.decide import claim_only, decide
from cis.engine.run.effects import NOTHING_SEEN, Effects
from cis.engine.run.ends import End
from cis.engine.run.parts import Holdings, LoopLimits, WorkerPorts
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.errors import ConflictError, StoreError, StoreRefusedError

log = logging.getLogger(__name__)

MOST_REFUSALS = 3
REFUSALS = (StoreRefusedError, ConflictError)


class TurnsApart:
    """Takes turns run by run, and counts how often the store has refused what each run wanted to store."""

    def __init__(self, parts: WorkerPorts, limits: LoopLimits, me: Incarnation) -> None:
        self._parts = parts
        self._limits = limits
        self._me = me
        self._refused: Counter[str] = Counter()

    def turn(self, held: Holdings, ends: Sequence[End], *, now: Instant, apply: Callable[[Effects], None]) -> list[End]:
        """Do what is due of each run; return the ends that could not be stored yet: none when nothing was refused.

        A run of which something was refused is not held any more: its rows are to be read anew, or it was set aside.

        Raises:
            FencedError: another epoch holds the worker's id.
            StoreError: the store is down.
        """
        self._one(held, None, (), now=now)  # the lease, whatever becomes of the runs
        with self._parts.store.transaction():
            claim_only(self._parts, self._limits, self._me, held, ends=ends, now=now)
        left: list[End] = []
        for run_id in list(held.plans):
            mine = [end for end in ends if end.attempt.run_id == run_id]
            try:
                effects = self._one(held, run_id, mine, now=now)
            except REFUSALS as error:
                self._drop(held, run_id)
                self._refused[run_id] += 1
                if self._refused[run_id] < MOST_REFUSALS:
                    left += mine
                else:
                    self._set_aside(held, run_id, error, now=now)
            else:
                del self._refused[run_id]
                apply(effects)
        held.told = ()  # each transaction has told of one run alone
        return left

    @property
    def needed(self) -> bool:
        """Whether something was refused, and is neither stored nor set aside by now."""
        return bool(self._refused)

    def _one(self, held: Holdings, run_id: str | None, ends: Sequence[End], *, now: Instant) -> Effects:
        """Do what is due of one run alone; *held* is changed once that is committed."""
        one = replace(
            held,
            plans={key: plan for key, plan in held.plans.items() if key == run_id},
            children={key: wait for key, wait in held.children.items() if key[0] == run_id},
            waits=held.waits.only(run_id),
            unstarted=[attempt for attempt in held.unstarted if attempt.run_id == run_id],
            seen=NOTHING_SEEN,
        )
        others = [attempt for attempt in held.unstarted if attempt.run_id != run_id]
        try:
            with self._parts.store.transaction():
                effects = decide(self._parts, self._limits, self._me, one, ends=ends, poll=True, claim=False, now=now)
        except StoreError:
            held.unstarted = [*others, *one.unstarted]
            raise
        held.forget_waits(run_id)
        held.children |= one.children
        held.waits.add_all(one.waits)
        if run_id is not None and run_id not in one.plans:
            del held.plans[run_id]
        held.alone, held.short = one.alone, one.short
        held.unstarted = others
        held.beat_s, held.beat_due_s = one.beat_s, one.beat_due_s
        return effects

    def _drop(self, held: Holdings, run_id: str) -> None:
        held.plans.pop(run_id, None)
        held.forget_waits(run_id)

    def _set_aside(self, held: Holdings, run_id: str, error: Exception, *, now: Instant) -> None:
        log.error("a run was set aside", extra={"run_id": run_id, "error": str(error)})
        # Before that is stored: from then on no row tells of its processes.
        held.live.kill_where(lambda live: live.attempt.run_id == run_id)
        held.live.tick(now.mono_s)
        why = f"it was set aside: the store refused {MOST_REFUSALS} times what it wanted to store: {error}"
        store = self._parts.store
        with store.transaction():
            store.workers.check_epoch(self._me.node_id, self._me.worker_id, self._me.epoch)
            set_aside(store, run_id, worker_id=self._me.worker_id, why=why, now_us=now.wall_us)
        del self._refused[run_id]
