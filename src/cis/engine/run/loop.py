"""The worker's loop: start what is ready, wait, record; many runs of one scope at once.

One turn is one transaction:

    wait for exits, rings of the bell, time limits
    BEGIN   wait again, for no time, if others had to be waited for
            check the epoch · look at control · claim runs · take the ends · choose what starts   COMMIT
    spawn what was chosen, then whatever can wait

A start is therefore on disk before its process exists. A process that ends before the next turn is recorded with it, as
does one that ends while the write lock is waited for; where many are spawned, those that have ended are attended to
between them. While others have the lock, the worker begins what is stored ahead (``cis.engine.run.ahead``) and does not
wait for it. When the transaction fails (disk full, I/O error), nothing was spawned for it: the loop forgets its plans,
keeps the ends that it saw, and builds the plans anew from the rows at the next turn; so no end is lost while the
process lives. When it fails because the store refuses a row, which is no fault of the store, the next turns are done
run by run (``cis.engine.run.apart``). When the process dies, whoever takes its id next finds starts without ends and
declares those attempts lost (``cis.engine.run.adoption``). A turn under an old epoch raises FencedError and changes
nothing.

A worker that could renew its lease for a whole lease time in no transaction raises LeaseLostError, and has to stop: the
monotonic clock judges, from the last heartbeat that was committed. One that was only asleep, and whose next transaction
succeeds, goes on. The ends that it could not store are lost with it, although their work may be done: whoever takes up
its runs finds starts without ends, as after a crash, and ``on_lost`` decides.

This module waits, commits and applies; what is decided in the transaction (``cis.engine.run.decide``) comes as a value.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from cis.engine.leases import Leases, margin_s
from cis.engine.run.adoption import ask, forget_kept, sweep
from cis.engine.run.ahead import HORIZON_S, STORE_WITHIN_S
from cis.engine.run.apart import REFUSALS, TurnsApart
from cis.engine.run.claiming import adopt, park, read_on, unread
from cis.engine.run.decide import POLL_S, decide
from cis.engine.run.effects import NEVER, NOTHING, NOTHING_SEEN, Effects, Start
from cis.engine.run.ends import Ends
from cis.engine.run.live import Ending, LiveAttempts
from cis.engine.run.parts import Holdings, LoopLimits, WorkerPorts, probe, stop_the_late
from cis.engine.run.spawning import Spawning
from cis.engine.run.task_places import PlaceUse
from cis.engine.this_node import Incarnation
from cis.engine.times import Instant
from cis.errors import ConflictError, FencedError, LeaseLostError, StoreBusyError, StoreError

log = logging.getLogger(__name__)

PID_AFTER_S = 0.05
RETRY_STORE_S = 1.0
TELL_EVERY_S = 0.05
PARK_AT_ONCE = 200
TRY_AGAIN_S = 0.0015  # others had the write lock; shorter than the gap that they leave


class WorkerLoop:
    """Runs the queued runs of one worker id, under one epoch, until it is told to stop."""

    def __init__(self, parts: WorkerPorts, limits: LoopLimits, me: Incarnation) -> None:
        self._parts = parts
        self._limits = limits
        self._me = me
        this_node, margin = parts.this_node, margin_s(limits.grace_s)
        leases = Leases(me.node_id, margin_s=margin, uptime_us=this_node.uptime_us, boot_id=this_node.boot_id)
        live = LiveAttempts(parts.executor, grace_s=limits.grace_s)
        self._held = Holdings(live, leases, place=PlaceUse(parts.places))
        self._ends = Ends(parts, self._held)
        self._spawning = Spawning(parts, self._held)
        self._turns_apart = TurnsApart(parts, limits, me)
        self._apart = False
        self._adopted = False
        self._begun = False
        self._renewed_s = parts.clock().mono_s  # whoever makes a loop has just taken the id
        self._hold_until_s = 0.0
        self._store_by_s = 0.0
        self._busy_since_s = NEVER  # others have had the write lock since then, and it was not waited for
        self._try_again_s = 0.0
        self._told_s = 0.0
        self._untold = False
        self._swept: set[str] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is held, running or unrecorded; what waits in the queue is not counted."""
        return self._adopted and not self._held.plans and not len(self._held.live) and not self._unstored

    @property
    def resting(self) -> bool:
        """Whether no task runs and none could start: whatever is held only waits."""
        plans = self._held.plans.values()
        return self._adopted and not len(self._held.live) and not self._unstored and not any(p.active for p in plans)

    @property
    def running(self) -> bool:
        """Whether a process is left."""
        return bool(len(self._held.live))

    @property
    def failing(self) -> bool:
        """Whether the last transaction failed, and the next is not due yet."""
        return self._parts.clock().mono_s < self._hold_until_s

    @property
    def stopped(self) -> bool:
        """Whether, after ``drain`` or ``stop``, no process is left and every end is recorded."""
        return self._held.stopping and not len(self._held.live) and not self._unstored

    @property
    def _unstored(self) -> bool:
        """Whether the next transaction has something to store that has happened already."""
        held = self._held
        return bool(self._ends.new or held.unstarted or (held.stopping and held.ahead))

    def drain(self, *, doubting: bool = False) -> None:
        """Start nothing more, let what runs go on, and let lasting attempts go.

        *doubting* whether what ends has done so by itself (``cis.engine.run.ends``).
        """
        self._held.stopping = True
        self._held.live.let_lasting_go()
        if doubting:
            self._ends.doubt_all()

    def stop(self, *, all_were_told: bool = False) -> None:
        """Start nothing more and end what runs: TERM now, KILL after the grace period.

        With *all_were_told*, the tasks had TERM from somebody else, so an end that was still in doubt came of it.
        """
        self._held.stopping = True
        self._held.live.let_lasting_go()
        if not all_were_told:
            self._ends.settle()
        self._held.live.end_where(lambda _: True, Ending.STOP, now_s=self._parts.clock().mono_s)

    def kill(self) -> None:
        """End every process at once with KILL."""
        self._held.stopping = True
        self._held.live.let_lasting_go()
        self._held.live.kill_all()

    def disown(self) -> None:
        """End the lasting attempts, too: whoever has the home now knows nothing of them."""
        self._held.live.end_where(lambda live: live.lasting, Ending.STOP, now_s=self._parts.clock().mono_s)

    def put_away(self) -> bool:
        """Park runs that all only wait, up to ``PARK_AT_ONCE``; return whether there were some.

        Each comes back when its next retry or a time limit is due, a child run ends or it is resumed. What happened
        meanwhile is looked at in the same transaction: a run to which something did is not let go of.
        """
        now = self._parts.clock()
        with self._parts.store.transaction():
            parked = park(self._parts.store, self._me, self._held, at_most=PARK_AT_ONCE, now=now)
        for run_id in parked:
            self._held.let_go(run_id)
            self._swept.discard(run_id)
        return bool(parked)

    def hand_back(self) -> None:
        """Put the runs that this worker holds back into the queue, in their old order."""
        store, me = self._parts.store, self._me
        with store.transaction():
            store.workers.check_epoch(me.node_id, me.worker_id, me.epoch)
            store.queue.hand_over(me.node_id, me.worker_id, epoch=None)
        self._held.plans.clear()
        self._parts.tell()

    def turn(self, *, at_most_s: float = POLL_S) -> None:
        """Wait up to *at_most_s* for something to do, and do it in one transaction.

        Raises:
            FencedError: this worker's id was taken over; nothing was changed.
            LeaseLostError: transactions have failed for a whole lease time.
        """
        now = self.attend(at_most_s=self._wait_s(at_most_s))
        self._ask(now)
        if now.mono_s < self._hold_until_s:
            return
        probe(self._held, self._parts.executor, now_s=now.mono_s)
        wait = self._begun = True  # False only while a transaction has yet to begin
        try:
            read_on(self._parts, self._held, now=now)
            self._ends.new += self._held.ended_waits(self._parts.maker, now)
            self._store_by_s = self._begin_ahead()
            placed = not self._held.stopping and self._held.place.ask_again(len(self._held.live), now_s=now.mono_s)
            if not ((self._unstored and now.mono_s >= self._store_by_s) or placed or self._due_s() <= now.mono_s):
                return
            if now.mono_s < self._try_again_s:
                return
            wait = self._waits_for_lock(now)
            effects = self._commit_apart(now) if self._apart else self._commit(now, wait=wait)
        except FencedError:
            raise
        except StoreBusyError as error:
            if not (wait or self._begun):
                self._try_again_s = now.mono_s + TRY_AGAIN_S
                self._busy_since_s = min(self._busy_since_s, now.mono_s)
            elif self._begun or not self._adopted:
                self._forget(error, now)
            else:
                log.warning("a transaction failed: others have the database", extra={"error": str(error)})
                self._stop_without_lease(error)
            return
        except (StoreError, ConflictError) as error:
            self._forget(error, now)
            self._apart = isinstance(error, REFUSALS)
            return
        self._apply(effects, now)

    def _apply(self, effects: Effects, now: Instant) -> None:
        """Do what follows from a turn, now that it is stored."""
        if effects.alone is not None:
            self._held.alone = effects.alone
        self._busy_since_s = NEVER
        self._held.seen = effects.seen
        self._held.ahead.replace(effects.ahead, seen=effects.seen)
        self._spawn(effects.starts)  # before all that can wait: while a process runs, the rest costs no time
        self._renewed_s = max(self._renewed_s, self._held.beat_s)
        # A child's cancellation is stored with its parent's, or not at all.
        self._end_all_of(effects.cancelled, Ending.CANCEL, effects.stopped)
        self._end_all_of(effects.suspended, Ending.STOP)
        sweep(self._parts.maker, self._held, self._swept)
        self._untold = True
        self._drop(effects.ended)
        self._tell(now, at_once=bool(effects.ended))
        for worker_id in sorted(effects.rings):
            self._parts.ring(worker_id)
        self._held.place.keep(len(self._held.live))

    def attend(self, *, at_most_s: float) -> Instant:
        """Wait for ends and rings, see to time limits, and return the moment; nothing is stored."""
        exits = self._parts.executor.wait(at_most_s)
        rung = self._parts.bell.was_rung()
        now = self._parts.clock()
        self._parts.alive()
        self._tell(now)
        self._ends.take(exits, now)
        stop_the_late(self._held, now)
        self._held.live.tick(now.mono_s)
        if rung:
            self._held.poll_due_s = now.mono_s
        return now

    def _waits_for_lock(self, now: Instant) -> bool:
        """Whether the next transaction waits for others; False for 50 ms, while what is stored ahead fills the slots."""
        filled = self._store_by_s > 0.0 and not self._apart
        return not filled or now.mono_s >= self._busy_since_s + HORIZON_S

    def _commit(self, now: Instant, *, wait: bool) -> Effects:
        if not self._adopted:
            self._adopt(now)
        self._begun = False
        with self._parts.store.transaction(wait=wait):
            self._begun = True
            pids = self._held.live.take_pids(older_than_s=now.mono_s - PID_AFTER_S)
            if self._parts.store.waited:
                now = self.attend(at_most_s=0.0)
            poll = self._held.poll_due_s <= now.mono_s
            effects = decide(self._parts, self._limits, self._me, self._held, ends=self._ends.new, poll=poll, now=now)
            self._parts.store.attempts.set_pids(pids)
        forget_kept(self._parts.executor, self._ends.new)
        self._ends.new = []
        self._held.unstarted.clear()
        return effects

    def _commit_apart(self, now: Instant) -> Effects:
        """Do the turn run by run: the store has refused a row of one, and nobody knows which."""
        if not self._adopted:
            self._adopt(now)
        self._begun = True
        ends, self._ends.new = self._ends.new, []
        try:
            left = self._turns_apart.turn(self._held, ends, now=now, apply=partial(self._apply, now=now))
        except StoreError:
            # Those that are stored already are known when all rows are read anew.
            self._ends.new = [*ends, *self._ends.new]
            raise
        forget_kept(self._parts.executor, [end for end in ends if end not in left])
        self._ends.new = [*left, *self._ends.new]
        self._apart = self._turns_apart.needed
        if self._apart:
            self._adopted = False
            self._hold_until_s = now.mono_s + RETRY_STORE_S
        return NOTHING

    def _wait_s(self, at_most_s: float) -> float:
        now_s = self._parts.clock().mono_s
        if self._unstored and now_s >= self._store_by_s:
            due_s = self._hold_until_s
        else:
            due_s = max(self._hold_until_s, min(self._due_s(), self._held.next_due_s()))
            if self._unstored:
                due_s = min(due_s, self._store_by_s)
        due_s = max(self._try_again_s, min(due_s, self._ends.next_due_s(now_s)))
        if self._untold:
            due_s = min(due_s, self._told_s + TELL_EVERY_S)
        if unread(self._held) is not None:
            due_s = self._hold_until_s
        return min(at_most_s, max(0.0, due_s - now_s))

    def _due_s(self) -> float:
        """Return when the next transaction is due even if nothing ends."""
        if not self._adopted:
            return 0.0
        held = self._held
        due_s = min(held.poll_due_s, held.beat_due_s, held.live.oldest_without_pid_s() + PID_AFTER_S, held.ahead.due_s)
        if not held.stopping:
            for plan in held.plans.values():
                due_s = min(due_s, plan.due_s)
            if held.short is not None and any(plan.wants_slot for plan in held.plans.values()):
                due_s = min(due_s, held.short.due_s)
        return due_s

    def _adopt(self, now: Instant) -> None:
        attend = partial(self.attend, at_most_s=0.0)
        adopt(self._parts, self._limits, self._me, self._held, ends=self._ends.new, attend=attend, now=now)
        self._renewed_s = max(self._renewed_s, self._held.beat_s)
        self._held.poll_due_s = self._held.control_due_s = now.mono_s
        self._adopted = True

    def _ask(self, now: Instant) -> None:
        """Ask the executor for lasting attempts that somebody else has started."""
        if self._held.asked and not self._held.stopping:
            lost, exits = ask(self._parts, self._held, now=now)
            self._ends.new += lost
            self._ends.take(exits, now)

    def _forget(self, error: Exception, now: Instant) -> None:
        log.error("a transaction failed; the plans are read anew", extra={"error": str(error)})
        self._held.plans.clear()
        self._held.children.clear()
        self._held.waits.clear()
        if self._held.alone is not None and not self._held.live.has(self._held.alone[0]):
            self._held.alone = None  # its end may be stored already
        self._held.reading = None
        self._held.keep_unstarted(start.attempt for start in self._held.ahead)
        self._held.ahead.replace((), seen=NOTHING_SEEN)
        for live in self._held.live:
            live.pid_stored = False
        self._adopted = False
        self._held.place.keep(len(self._held.live))
        self._held.beat_due_s = 0.0  # the one that was meant to be stored was not
        self._hold_until_s = now.mono_s + RETRY_STORE_S
        self._stop_without_lease(error)

    def _stop_without_lease(self, error: Exception) -> None:
        """Raise LeaseLostError when the last renewal was a lease time ago."""
        if self._parts.clock().mono_s - self._renewed_s >= self._limits.lease_s:
            why = f"{self._me.worker_id} could not renew its lease for {self._limits.lease_s:g} s: {error}"
            raise LeaseLostError(why) from error

    def _end_all_of(
        self, run_ids: AbstractSet[str], why: Ending, tasks: AbstractSet[tuple[str, int]] = frozenset()
    ) -> None:
        """End what runs of some runs, and of some tasks of others."""
        if run_ids or tasks:
            now_s = self._parts.clock().mono_s  # the commit may have taken as long as they have to end
            self._held.live.end_where(lambda live: live.is_of(run_ids, tasks), why, now_s=now_s)

    def _tell(self, now: Instant, *, at_once: bool = False) -> None:
        """Say that something was stored: at once when a run has ended, else a few times a second."""
        if self._untold and (at_once or now.mono_s >= self._told_s + TELL_EVERY_S):
            self._parts.tell()
            self._told_s = now.mono_s
            self._untold = False

    def _drop(self, ended: AbstractSet[str]) -> None:
        """Let go of the runs that have ended."""
        for run_id in ended:
            self._held.let_go(run_id)
            self._swept.discard(run_id)
        if ended:
            self._held.runs_done += len(ended)
            self._held.poll_due_s = 0.0  # there is room for another run
            self._held.beat_due_s = 0.0

    def _begin_ahead(self) -> float:
        """Give the slots that are free to what is stored ahead, unless somebody else has changed that or taken the id.

        Return until when the ends of those that had the slots may wait to be stored.
        """
        held, now = self._held, self._parts.clock()
        if not (self._adopted and held.may_begin_ahead(now)):
            return 0.0
        running = len(held.live)
        places = held.place.spare(running, now_s=now.mono_s)
        free = 0 if places is None else min(self._limits.slots - len(held.asked) - running, places)
        if places is None or (free > 0 and not held.ahead.may_begin(self._parts.store, self._me)):
            return 0.0
        self._spawn(held.ahead.take(max(0, free)))
        all_used = held.ahead and len(held.live) >= running + free
        return self._ends.since_s + STORE_WITHIN_S if all_used else 0.0

    def _spawn(self, starts: Sequence[Start]) -> None:
        if starts:
            self._ends.new += self._spawning.spawn(starts, attend=lambda: self.attend(at_most_s=0.0))
