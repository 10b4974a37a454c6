"""One history of a room whose homeserver lies about order, age and delivery, from one seed.

It says that it took what it keeps to itself, and did not take what it delivers; it delivers when it likes, to whom it
likes, as often as it likes, in any order; of age nothing is asked. It cannot sign. Clocks are set, nodes, workers
and machines start anew meanwhile. What must hold all the time: no run has processes on two nodes at once. After a while
the homeserver becomes honest, and then each run has to come to its end.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cis.model.message import Message
from tests.chaos.lying.party import LEASE_S, LOOK_S, Party
from tests.worlds.migrated import fast_folder

LIES_S = 6 * LEASE_S
HONEST_S = 12 * LEASE_S
STEP_S = LOOK_S
NODES = ("arbiter", "x", "y")


class TwiceError(AssertionError):
    """What must hold did not."""


@dataclass(slots=True)
class _Event:
    event_id: str
    message: Message
    sent_s: float
    delivered: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one history."""

    seed: int
    counts: Counter[str]
    broken: str | None
    history: list[str]


def play(seed: int) -> Played:
    """Play the history of a seed."""
    with fast_folder() as folder, _silence():
        room = LyingRoom(seed, Path(folder))
        broken = None
        try:
            room.play()
        except Exception as error:  # noqa: BLE001 - whatever the program raised, the history belongs to it
            broken = f"{type(error).__name__}: {error}"
        finally:
            for party in room.parties.values():
                party.close()
        return Played(seed=seed, counts=room.counts, broken=broken, history=room.history)


class LyingRoom:
    """The nodes, the homeserver between them, and the time."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - repeatable, which is the point
        self.counts: Counter[str] = Counter()
        self.history: list[str] = []
        self._now_s = 0.0
        self._events: list[_Event] = []
        self._honest = False
        self.parties = {
            name: Party(
                name,
                [other for other in NODES if other != name],
                folder / name,
                random.Random(self.rng.random()),  # noqa: S311 - as above
                claims=name != "arbiter" or self.rng.random() < 0.3,
            )
            for name in NODES
        }
        self._runs = [self.parties["arbiter"].offer() for _ in range(self.rng.randint(1, 3))]
        self._kept: frozenset[tuple[str, str]] = frozenset()  # of whom to whom nothing is delivered for a while
        self._delivers = self.rng.choice((0.1, 0.3, 0.6))
        self._admits = self.rng.choice((0.5, 0.9, 1.0))

    def play(self) -> None:
        """Let it lie, then be honest, and demand that all comes to its end."""
        while self._now_s < LIES_S:
            self._step()
        self._honest = True
        self.parties["arbiter"].claims = True
        for party in self.parties.values():
            party.set_clock_right()
        self._log("the homeserver is honest from here on")
        while self._now_s < LIES_S + HONEST_S:
            if self._over():
                return
            self._step()
        raise TwiceError(f"runs never ended: {self._left()}")

    def _step(self) -> None:
        self._now_s += STEP_S
        for party in self.parties.values():
            party.now_s = self._now_s
        order = list(self.parties.values())
        self.rng.shuffle(order)
        for party in order:
            self._befall(party)
            if self.rng.random() < 0.02:
                pairs = [(one, other) for one in NODES for other in NODES]
                self._kept = frozenset(self.rng.sample(pairs, self.rng.randint(0, 5)))
            self._hear(party)
            for message, item in party.says():
                self._take(party, message, item)
            party.look_at_leases()
            party.work()
            self._watch()
            self._finish(party)

    def _befall(self, party: Party) -> None:
        if self._honest:
            return
        for chance, what in (
            (0.01, party.set_clock),
            (0.005, party.restart_node),
            (0.005, party.restart_worker),
            (0.002, party.reboot),
        ):
            if self.rng.random() < chance:
                self._log(f"{party.name}: {what.__name__}")
                what()

    def _take(self, party: Party, message: Message, item: object) -> None:
        """Take an event, or say so; the one has little to do with the other."""
        self.counts[message.kind.rpartition(".")[2]] += 1
        event = _Event(f"$e{len(self._events)}", message, self._now_s)
        self._events.append(event)  # it may come to light whatever was said
        if item is None:
            return
        if self._honest or self.rng.random() < self._admits:
            party.was_taken(item, event.event_id)  # type: ignore[arg-type]
        else:
            party.was_not_taken(item)  # type: ignore[arg-type]

    def _hear(self, party: Party) -> None:
        for event in self._deliveries(party):
            known = party.name in event.delivered
            event.delivered.add(party.name)
            event_id = f"{event.event_id}.{self.rng.randrange(10**6)}" if known else event.event_id
            self.counts["late"] += self._now_s - event.sent_s > LEASE_S
            party.hear(event.message, event_id=event_id)
            self._log(
                f"{party.name} hears {event.message.kind} {event.message.run_id} of {event.message.sender},"
                f" {self._now_s - event.sent_s:.1f} s old: {dict(event.message.fields) if 'grant' in event.message.kind else ''}"
            )

    def _deliveries(self, party: Party) -> Iterator[_Event]:
        if self._honest:
            for event in list(self._events):
                if party.name not in event.delivered:
                    yield event
            return
        known = [event for event in self._events if (event.message.sender, party.name) not in self._kept]
        while known and self.rng.random() < self._delivers:
            # The newest, mostly: without any of them nothing would happen that could go wrong.
            newest = known[-12:]
            event = self.rng.choice(newest if self.rng.random() < 0.7 else known)
            yield event

    def _finish(self, party: Party) -> None:
        for run_id, one in list(party.executing.items()):
            run = party.store.runs.get(run_id)
            ends = self.rng.random() < (0.2 if self._honest else 0.005)
            if ends and one.dies_s == float("inf") and run is not None and not run.status.final:
                party.finish(run_id)
                self.counts["finished"] += 1
                self._log(f"{party.name} has finished {run_id}")

    def _watch(self) -> None:
        for run_id in self._runs:
            alive = [
                party.name
                for party in self.parties.values()
                if run_id in party.executing and party.executing[run_id].dies_s > self._now_s
            ]
            self.counts["executing"] += len(alive)
            if len(alive) > 1:
                raise TwiceError(f"run {run_id} is executed on {' and '.join(alive)} at once, at {self._now_s:.1f} s")

    def _over(self) -> bool:
        return not self._left()

    def _left(self) -> list[str]:
        arbiter = self.parties["arbiter"].store
        runs = [arbiter.runs.get(run_id) for run_id in self._runs]
        return [run.run_id for run in runs if run is not None and not run.status.final]

    def _log(self, line: str) -> None:
        self.history.append(f"{self._now_s:7.1f}  {line}")


@contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
