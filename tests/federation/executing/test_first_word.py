"""A node that starts waits for the word of those whose runs it goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.federation.executing.first_word import WAIT_S, FirstWord
from cis.model.message import MessageKind
from cis.model.states import RunState
from tests.worlds.deciding import START_US, Decider, decider, spec_of


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    """Node-1 has begun a run of node-2, has not begun another, and has begun one of node-3, which has no address."""
    with decider(tmp_path) as node:
        for sender, run_id, scope in (("node-2", "begun", "a"), ("node-2", "new", "b"), ("node-3", "by-room", "c")):
            requested = spec_of(target_node="node-1", scope=f"project:{scope}")
            node.hears(MessageKind.EXECUTE, sender, run_id, requested=requested, in_room=False, dag_id="demo")
        for run_id in ("begun", "by-room"):
            node.change_run(run_id, status=RunState.RUNNING, started_at_us=START_US)
        yield node


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def held(first: FirstWord, node: Decider) -> set[str]:
    """Return the runs whose workers are not to be started."""
    return {run_id for run_id in ("begun", "new", "by-room") if first.holds(node.run(run_id).worker_id)}


def test_what_was_accepted_waits_until_its_origin_was_asked_or_the_room_was_read(node: Decider) -> None:
    first = FirstWord(node.store, clock_s=Clock())
    at_first = held(first, node)
    heard = [first.heard(run_id) for run_id in ("begun", "new", "by-room", "begun")]
    later = held(first, node)
    read = [first.room_read(), first.room_read()]

    assert at_first == {"begun", "new", "by-room"}
    assert (heard, later) == ([True, True, False, False], {"by-room"})
    assert (read, held(first, node)) == ([True, False], set())


def test_nothing_waits_for_ever(node: Decider) -> None:
    clock = Clock()
    first = FirstWord(node.store, clock_s=clock)
    clock.now_s += WAIT_S - 0.1
    before = held(first, node)
    clock.now_s += 0.1

    assert (before, held(first, node)) == ({"begun", "new", "by-room"}, set())
    assert not first.heard("begun")


def test_a_node_that_has_no_run_of_others_waits_for_nothing(node: Decider) -> None:
    node.change_run("new", status=RunState.CANCELLED, finished_at_us=START_US)
    for run_id in ("begun", "by-room"):
        node.change_run(run_id, status=RunState.COMPLETED, finished_at_us=START_US)

    assert held(FirstWord(node.store, clock_s=Clock()), node) == set()
