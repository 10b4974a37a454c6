"""Tells whoever listens of every change of state, in order.

A thread reads new events from the store when it is poked, and once a second in any case (or counts them, while nobody
listens). It keeps the newest in memory and wakes the subscribers, which read at their own pace from where they are:
nothing is queued for anyone, so one that is slow holds up nobody and costs no memory. One that falls behind what is in
memory reads on in the store; one that falls behind what the store keeps is told so (by ``cis.api.streams``).

``Delivering`` listens on behalf of a caller who has handed in a run for another node, and waits a moment for it to
arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Protocol, Self

from cis.errors import CisError
from cis.model.states import RunState
from cis.node.cluster import Cluster
from cis.store.cluster import OutboxItem, Route
from cis.store.port import Store
from cis.store.records import Delivery, EventRecord, RunRecord

log = logging.getLogger(__name__)

POLL_S = 1.0
PAUSE_S = 0.02  # between two looks, so that a storm of pokes becomes a few big ones
KEEP_EVENTS = 50_000
PRUNE_EVERY = 5_000
PRUNE_AT_ONCE = 5_000
IN_MEMORY = 5_000
_AT_ONCE = 1_000
_FINAL = frozenset(str(state) for state in RunState if state.final)

TIMEOUT_S = 1.0


class EventHub:
    """Reads the event log as it grows.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], *, keep: int = KEEP_EVENTS) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._recent: deque[EventRecord] = deque(maxlen=IN_MEMORY)
        self._finished: Counter[str] = Counter()
        self._subscriptions: set[Subscription] = set()
        self._last_seq = 0
        self._since_prune = 0
        self._poked = threading.Event()
        self._closed = threading.Event()
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(open_store, opened), name="events", daemon=True)
        self._thread.start()
        opened.result()

    @property
    def last_seq(self) -> int:
        """The newest event that was read or counted."""
        return self._last_seq

    @property
    def closed(self) -> bool:
        """Whether the node is stopping: streams end."""
        return self._closed.is_set()

    @property
    def finished(self) -> Mapping[str, int]:
        """How many runs ended in each state since the hub was made."""
        with self._lock:
            return dict(self._finished)

    def poke(self) -> None:
        """Say that something was stored. From any thread, and cheap; with no listener the next poll does."""
        if self._subscriptions:
            self._poked.set()

    def close(self) -> None:
        """Stop, and wake every subscriber for the last time. Harmless when repeated."""
        self._closed.set()
        self._poked.set()
        self._thread.join()
        self._wake()

    def subscribe(self) -> Subscription:
        """Return a bell of the running event loop that rings when there is something new; close it after use."""
        subscription = Subscription(self._forget)
        with self._lock:
            self._subscriptions.add(subscription)
        self._poked.set()
        return subscription

    def after(self, seq: int, *, limit: int = 500) -> Sequence[EventRecord] | None:
        """Return events after *seq*, oldest first; None when some of them are in the store alone."""
        with self._lock:
            if seq >= self._last_seq:
                return []
            if not self._recent or self._recent[0].seq > seq + 1:
                return None
            start = next(place for place, event in enumerate(self._recent) if event.seq > seq)
            return list(islice(self._recent, start, start + limit))

    def _forget(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.discard(subscription)

    def _serve(self, open_store: Callable[[], Store], opened: Future[None]) -> None:
        try:
            store = open_store()
            self._last_seq = store.events.last_seq()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the hub is made
            opened.set_exception(error)
            return
        opened.set_result(None)
        while not self._closed.is_set():
            self._poked.wait(POLL_S)
            self._poked.clear()
            try:
                self._read(store)
                self._prune(store)
            except CisError:
                log.exception("the event log cannot be read; trying again")
                self._closed.wait(POLL_S)
            self._closed.wait(PAUSE_S)
        store.close()

    def _read(self, store: Store) -> None:
        if not self._subscriptions:
            self._pass_over(store)
            return
        while events := store.events.after(self._last_seq, limit=_AT_ONCE):
            with self._lock:
                self._recent.extend(events)
                self._last_seq = events[-1].seq
                self._since_prune += len(events)
                self._finished.update(event.status for event in events if _ends_a_run(event))
            self._wake()

    def _pass_over(self, store: Store) -> None:
        """Count what is new; whoever begins to listen this very moment finds it in the store."""
        tally = store.events.tally_after(self._last_seq)
        if not tally.events:
            return
        with self._lock:
            self._recent.clear()
            self._last_seq = tally.last_seq
            self._since_prune += tally.events
            self._finished.update({status: count for status, count in tally.runs.items() if status in _FINAL})
        self._wake()

    def _prune(self, store: Store) -> None:
        if self._since_prune < PRUNE_EVERY:
            return
        gone = PRUNE_AT_ONCE
        while gone >= PRUNE_AT_ONCE:
            with store.transaction():
                gone = store.events.prune(keep=self._keep, at_most=PRUNE_AT_ONCE)
        self._since_prune = 0

    def _wake(self) -> None:
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.ring()


class Subscription:
    """One listener's bell, for the event loop in which it was made."""

    def __init__(self, forget: Callable[[Subscription], None]) -> None:
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the listener. From any thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended, and the listener with it
            self._loop.call_soon_threadsafe(self._rung.set)

    async def heard(self, *, timeout_s: float) -> bool:
        """Wait until there may be something new; return whether there may."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def close(self) -> None:
        """Stop listening."""
        self._forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ends_a_run(event: EventRecord) -> bool:
    return event.kind == "run" and event.status in _FINAL


class ReadRun(Protocol):
    """Reads the store in a thread."""

    async def __call__(self, function: Callable[[Store], RunRecord | None], /) -> RunRecord | None: ...


class Delivering:
    """Sends what has just been accepted, and tells how far it came within ``TIMEOUT_S``."""

    def __init__(self, cluster: Cluster, *, read: ReadRun) -> None:
        self._cluster = cluster
        self._read = read

    async def send_now(self, run: RunRecord) -> RunRecord:
        """Return the run once its peer has answered, or when the time is over."""
        if run.delivery is not Delivery.QUEUED:
            return run
        items: list[OutboxItem] = []

        def look(store: Store) -> RunRecord | None:
            items.extend(item for item in store.outbox.of_run(run.run_id) if item.route is Route.PUSH)
            return store.runs.get(run.run_id)

        try:
            fresh = await self._read(look)
            sending = [item for item in items if item.uncertain and item.attempts == 1]
            if fresh is None or not sending:
                return fresh or run
            # It goes on when the time is over: only the caller's wait ends.
            done, _ = await asyncio.wait([asyncio.wrap_future(self._cluster.send_now(sending[0]))], timeout=TIMEOUT_S)
            for sent in done:
                sent.result()
        except CisError as error:
            log.warning("a run could not be sent at once", extra={"run_id": run.run_id, "error": str(error)})
        try:
            return await self._read(lambda store: store.runs.get(run.run_id)) or run
        except CisError:
            return run
