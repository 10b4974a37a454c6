"""The machine's places for tasks: never more than there are, one kept for scopes that run nothing, none held by the dead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cis.engine.run.task_places import ASK_AGAIN_S, SAY_AFTER_S, SLICE_S, PlaceUse
from cis.model.states import TaskState
from cis.worker.task_places import MachinePlaces
from tests.worlds.deciding import decider
from tests.worlds.looping import working

OTHER = """
import sys
from pathlib import Path
from cis.worker.task_places import MachinePlaces
places = MachinePlaces(Path(sys.argv[1]), most=int(sys.argv[2]))
for line in sys.stdin:
    what, _, number = line.partition(" ")
    if what.strip() == "take":
        print(places.take(), flush=True)
    elif what.strip() == "keep":
        places.keep(int(number))
        print(places.held, flush=True)
    else:
        places.give_back_borrowed()
        print(places.borrowed, flush=True)
"""


class Other:
    """Another worker's places, in a process of its own."""

    def __init__(self, path: Path, *, most: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path), str(most)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def other(path: Path, *, most: int) -> Iterator[Other]:
    """Let another process use the places at *path*."""
    one = Other(path, most=most)
    try:
        yield one
    finally:
        one.end()


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[MachinePlaces]:
    """The places of this process: there are four."""
    places = MachinePlaces(tmp_path / "places", most=4)
    yield places
    places.close()


def test_one_scope_has_all_places_but_the_one_that_is_kept(mine: MachinePlaces) -> None:
    assert [mine.take() for _ in range(5)] == [True, True, True, False, False]


def test_a_scope_that_runs_nothing_gets_the_kept_place_and_then_nobody_who_runs_something_gets_another(
    tmp_path: Path, mine: MachinePlaces
) -> None:
    with other(tmp_path / "places", most=4) as new, other(tmp_path / "places", most=4) as third:
        while mine.take():
            pass
        got = [new.ask("take"), new.ask("take"), third.ask("take")]
        mine.keep(2)
        again = mine.take()
        handed = third.ask("take")

        assert got == ["True", "False", "False"]
        assert not again
        assert handed == "True"


def test_the_borrower_gives_the_kept_place_back_when_another_is_free(tmp_path: Path, mine: MachinePlaces) -> None:
    with other(tmp_path / "places", most=4) as new, other(tmp_path / "places", most=4) as third:
        while mine.take():
            pass
        new.ask("take")
        mine.keep(2)
        borrowed = new.ask("exchange")

        assert borrowed == "False"
        assert not mine.take()
        assert third.ask("take") == "True"


def test_what_is_dead_holds_no_place(tmp_path: Path, mine: MachinePlaces) -> None:
    with other(tmp_path / "places", most=4) as dead:
        assert [dead.ask("take") for _ in range(3)] == ["True"] * 3
        assert mine.take()
        assert not mine.take()
        dead.end()

        assert mine.take()


def test_a_place_that_lacks_is_asked_for_again_and_said_after_a_while(tmp_path: Path) -> None:
    with other(tmp_path / "places", most=2) as busy:
        busy.ask("take")
        use = PlaceUse(MachinePlaces(tmp_path / "places", most=2))
        allowed = [use.allows(1, now_s=0.0), use.allows(2, now_s=0.0)]
        soon = use.ask_again(1, now_s=ASK_AGAIN_S)
        words = [use.words(0.5 * SAY_AFTER_S), use.words(SAY_AFTER_S)]
        busy.end()
        later = use.ask_again(1, now_s=3 * ASK_AGAIN_S), use.ask_again(1, now_s=5 * ASK_AGAIN_S)

        assert allowed == [True, False]
        assert not soon
        assert words[0] is None
        assert "max_tasks" in str(words[1])
        assert not any(later)  # of two places one is kept for scopes that run nothing


def test_a_place_is_passed_on_after_a_while_to_a_scope_that_has_none(tmp_path: Path) -> None:
    use = PlaceUse(MachinePlaces(tmp_path / "places", most=1))
    with other(tmp_path / "places", most=1) as new:
        first = use.allows(1, now_s=0.0)
        waits = new.ask("take")
        use.begin(0, now_s=0.5 * SLICE_S)
        soon = use.allows(1, now_s=0.5 * SLICE_S)
        use.begin(0, now_s=SLICE_S)
        later = use.allows(1, now_s=SLICE_S)

        assert (first, waits, soon, later) == (True, "False", True, False)
        assert new.ask("take") == "True"


def test_tasks_that_follow_one_upon_the_other_do_not_keep_a_place_from_a_scope_that_has_none(tmp_path: Path) -> None:
    places = MachinePlaces(tmp_path / "places", most=1)
    with (
        decider(tmp_path) as node,
        working(node, tmp_path, places=places) as worker,
        other(tmp_path / "places", most=1) as new,
    ):
        run = node.submitted(*[{"command": "true"}] * 40, target_node="node-1")
        worker.until(lambda: worker.pids, "the first task")

        def handed() -> bool:
            node.later(ASK_AGAIN_S)
            return new.ask("take") == "True"

        worker.until(handed, "a place for the other scope")
        still = [task for task in worker.store.tasks.of_run(run.run_id) if task.status is TaskState.PENDING]
        said = new.ask("keep 0")

        def done() -> bool:
            node.later(ASK_AGAIN_S)
            return all(task.status is TaskState.COMPLETED for task in worker.store.tasks.of_run(run.run_id))

        worker.until(done, "all of them")

        assert still
        assert said == "0"
    places.close()


def test_a_worker_starts_no_more_tasks_than_there_are_places_and_goes_on_as_they_end(tmp_path: Path) -> None:
    places = MachinePlaces(tmp_path / "places", most=3)
    with decider(tmp_path) as node, working(node, tmp_path, places=places) as worker:
        run = node.submitted(
            *[{"command": f"until test -e {tmp_path}/go; do sleep 0.02; done"}] * 4, target_node="node-1"
        )
        worker.until(lambda: len(worker.pids) == 2, "two tasks")
        for _ in range(5):
            worker.turn()
        running = len(worker.pids)
        (tmp_path / "go").touch()

        def done() -> bool:
            node.later(ASK_AGAIN_S)
            return all(task.status is TaskState.COMPLETED for task in worker.store.tasks.of_run(run.run_id))

        worker.until(done, "all of them")
        worker.turn()

        assert running == 2
        assert places.held == 0
    places.close()
