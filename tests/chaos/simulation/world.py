"""One whole history from one seed: a world is set up, disturbed, calmed down, and judged once it rests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from tests.chaos.simulation.disturbances import Disturbances
from tests.chaos.simulation.documents import draw_spec
from tests.chaos.simulation.machine import Machine
from tests.chaos.simulation.node import Node, Script
from tests.chaos.simulation.verdict import judge
from tests.chaos.simulation.watch import BrokenError
from tests.worlds.migrated import fast_folder

CALM_S = 12.0
REST_S = 400.0
MAX_STEPS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One history: what was played, and what it broke, if it did."""

    seed: int
    history: tuple[str, ...]
    digest: str
    counts: Mapping[str, int]
    broken: str | None = None


def play(seed: int) -> Played:
    """Play the history of a seed to its end."""
    with fast_folder() as folder, _silence():
        world = World(seed, Path(folder))
        broken = None
        try:
            world.write_script()
            world.play()
        except BrokenError as error:
            broken = str(error)
        except Exception as error:  # noqa: BLE001 - whatever the program raised, the history belongs to it
            broken = f"{type(error).__name__}: {error}"
        finally:
            world.close()
        machine, rows = world.machine, world.machine.watch.rows
        return Played(
            seed=seed,
            history=tuple(machine.stage.history),
            digest=machine.stage.digest(),
            counts={
                "runs": len(rows.runs),
                "attempts": len(rows.attempts),
                "lost": sum(attempt.status == "lost" for attempt in rows.attempts.values()),
                "taken_up": machine.kept.taken_up,
                "ends_found": machine.kept.ends_found,
                "crashes": world.disturbances.crashes,
                "failures_of_store_and_spawn": machine.faults.happened,
            },
            broken=broken,
        )


class World:
    """The actors of one history and the order in which they are disturbed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.machine = Machine(seed, folder)
        self.stage = self.machine.stage
        self.nodes = [Node(self.machine, "node")]
        if self.stage.chance(0.3):
            self.nodes.append(Node(self.machine, "a second supervisor"))
        self.script = Script(self.machine)
        self.disturbances = Disturbances(self.machine, self.nodes[0], self.script)
        self._rest_s = self.stage.now_s + CALM_S + REST_S
        self.stage.actors += [self.script, *self.nodes, self.machine.processes]

    def play(self) -> None:
        """Let it all happen, until nothing is left to happen; then judge."""
        self.until(self._rests)
        with self._reader() as connection:
            machine = self.machine
            judge(machine.watch, machine.processes, machine.promises, connection, quiet=machine.quiet)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let things happen until *condition*."""
        while not condition():
            if self.stage.now_s >= self._rest_s or self.stage.steps >= MAX_STEPS:
                raise BrokenError(f"no rest: {self._left()}")
            self.stage.step()
            self.disturbances.wake_fenced()

    def close(self) -> None:
        """Close all that is open."""
        stores = [one.store for one in self.machine.workers] + [node.store for node in self.nodes] + [self.script.store]
        for store in stores:
            store.close()

    def _rests(self) -> bool:
        rows = self.machine.watch.rows
        asleep = any(worker.asleep for worker in self.machine.workers)
        left = rows.unfinished or rows.running or self.machine.processes.live or self.machine.kept.handles()
        return self.script.over and not (left or asleep)

    def _left(self) -> str:
        rows, live = self.machine.watch.rows, self.machine.processes.live
        kept = self.machine.kept.handles()
        return f"runs {rows.unfinished}, attempts {rows.running}, processes {[one.name for one in live]}, kept {kept}"

    @contextmanager
    def _reader(self) -> Iterator[apsw.Connection]:
        connection = apsw.Connection(str(self.stage.folder / "cis.db"))
        try:
            yield connection
        finally:
            connection.close()

    def write_script(self) -> None:
        """Draw what clients ask for, what goes wrong, and when."""
        rng, script = self.stage.rng, self.script
        for number in range(rng.randint(1, 4)):
            spec = draw_spec(rng)
            script.add(rng.random() * 4.0, lambda key=f"key-{number}", spec=spec: script.submit(key, spec))  # type: ignore[misc]
        for action in ("cancel", "pause", "resume", "rerun"):
            for _ in range(rng.choice((0, 0, 1, 2))):
                script.add(rng.random() * CALM_S, lambda action=action: script.control(action))  # type: ignore[misc]
        for disturb in self.disturbances.all:
            for _ in range(rng.choice((0, 0, 0, 1, 1, 3))):
                script.add(rng.random() * CALM_S, disturb)
        script.add(CALM_S, self._calm)

    def _calm(self) -> None:
        """End all that goes wrong, so that the world can come to rest."""
        self.stage.log("calm")
        self.machine.calm()
        self._resume()

    def _resume(self) -> None:
        self.script.resume_all()
        if self.machine.watch.rows.unfinished:
            self.script.add(1.0, self._resume)


@contextmanager
def _silence() -> Iterator[None]:
    """Leave out the program's log: a history tells more, and thousands of them would only be slow."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(play(int(argument)).digest)  # noqa: T201 - for whoever compares
