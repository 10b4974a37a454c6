"""Lasting attempts through the eyes of one worker after another, over a real store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from cis.engine.accept.control import cancel
from cis.engine.ports import OrphanKiller
from cis.executors.attempt_folder import BEGUN, TASK, AttemptFolders
from cis.executors.orphans import kill_orphans
from cis.executors.platform import still_runs
from cis.model.scope import GLOBAL
from cis.model.states import AttemptState, RunState, TaskState
from cis.store.records import RunRecord
from cis.worker.rescuer import bury, end_unwanted
from tests.worlds.deciding import Decider, decider
from tests.worlds.descriptors import no_descriptors
from tests.worlds.looping import end_lasting, working
from tests.worlds.rows import attempts_of
from tests.worlds.waiting import wait_for


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as made:
        yield made
    end_lasting(tmp_path)


def submitted(node: Decider, folder: Path, *others: dict[str, Any]) -> RunRecord:
    """Accept a DAG with a task that goes on without its worker until there is a file ``go``."""
    command = f"until test -e {folder}/go; do sleep 0.02; done; echo x=1 >> $CIS_OUTPUT"
    return node.submitted({"command": command, "on_lost": "adopt"}, *others, target_node="node-1")


def begun(node: Decider, folder: Path, *others: dict[str, Any]) -> RunRecord:
    """Have a worker start such a task, and go away in good order."""
    run = submitted(node, folder, *others)
    with working(node, folder) as worker:
        worker.until(lambda: worker.handles, "the attempt")
        wait_for(lambda: folders(folder).process(f"{run.run_id}.0.1", BEGUN), what="its guardian")
        worker.loop.drain()
        worker.until(lambda: worker.loop.stopped, "nothing to run")
        worker.loop.hand_back()
    return run


def killer(folder: Path) -> OrphanKiller:
    return partial(kill_orphans, home=folder, attempts=folder / "attempts")


def folders(folder: Path) -> AttemptFolders:
    return AttemptFolders(folder / "attempts")


def test_a_worker_that_stops_waits_for_no_lasting_attempt_and_the_next_one_takes_it_up(
    node: Decider, tmp_path: Path
) -> None:
    run = begun(node, tmp_path)
    between = attempts_of(node.store, run.run_id)[0].status
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.handles, "the attempt")
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(run.run_id).status.final, "the end")

        assert between is AttemptState.RUNNING
        assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]
        assert worker.task(run.run_id).outputs == {"x": "1"}
        assert folders(tmp_path).handles() == []


def test_nothing_starts_in_the_slots_of_attempts_that_are_still_to_be_asked_for(node: Decider, tmp_path: Path) -> None:
    lasting = {"command": f"until test -e {tmp_path}/go; do sleep 0.02; done", "on_lost": "adopt"}
    run = submitted(node, tmp_path, lasting, lasting, lasting)
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.handles) == 4, "an attempt in each slot")
    other = node.submitted({"command": "true"}, target_node="node-1")
    with working(node, tmp_path) as worker:
        worker.until(lambda: len(worker.handles) == 4, "the attempts")
        for _ in range(5):
            worker.turn()
        beside = worker.attempts(other.run_id)
        (tmp_path / "go").touch()
        worker.until(lambda: node.run(other.run_id).status.final, "the other run")

        assert beside == []
        assert node.run(run.run_id).status in (RunState.RUNNING, RunState.COMPLETED)


def test_an_end_that_could_not_be_stored_is_judged_again_by_the_next_worker_with_its_outputs(
    node: Decider, tmp_path: Path
) -> None:
    run = submitted(node, tmp_path)
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.handles, "the attempt")
        worker.store.broken = worker.store.late = True
        (tmp_path / "go").touch()
        worker.until(lambda: worker.loop._ends, "its end")
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(run.run_id).status.final, "the end")

        assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]
        assert worker.task(run.run_id).outputs == {"x": "1"}


def test_a_start_that_was_stored_and_never_made_is_lost_and_made_again(node: Decider, tmp_path: Path) -> None:
    run = begun(node, tmp_path)
    end_lasting(tmp_path)
    folders(tmp_path).forget(f"{run.run_id}.0.1")
    (tmp_path / "go").touch()
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(run.run_id).status.final, "the end")

        assert worker.attempts(run.run_id) == [(1, AttemptState.LOST), (2, AttemptState.COMPLETED)]


def test_what_cannot_be_told_is_not_lost_but_asked_for_again_and_the_task_says_why(
    node: Decider, tmp_path: Path
) -> None:
    run = begun(node, tmp_path)
    (tmp_path / "go").touch()
    handle = f"{run.run_id}.0.1"
    wait_for(lambda: not folders(tmp_path).lives(handle), what="the end of the attempt")
    file = Path(folders(tmp_path).path(handle)) / "ended"
    whole = file.read_text()
    file.write_text('{"version": 99}')
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.task(run.run_id).error, "the reason")
        node.later(2)
        worker.turn()
        said, attempts = worker.task(run.run_id), worker.attempts(run.run_id)
        file.write_text(whole)
        node.later(2)
        worker.until(lambda: node.run(run.run_id).status.final, "the end")

        assert (said.status, attempts) == (TaskState.RUNNING, [(1, AttemptState.RUNNING)])
        assert "it may still run" in (said.error or "")
        assert worker.attempts(run.run_id) == [(1, AttemptState.COMPLETED)]
        assert worker.task(run.run_id).error is None


def test_a_run_that_was_cancelled_while_it_was_handed_over_is_cancelled_by_whoever_takes_it_up(
    node: Decider, tmp_path: Path
) -> None:
    run = submitted(node, tmp_path)
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.handles, "the attempt")
        worker.loop.drain()
        with node.store.transaction():
            cancel(node.store, run.run_id, now_us=node.now_us)
        worker.turn()
        worker.loop.hand_back()
    with working(node, tmp_path) as worker:
        worker.until(lambda: node.run(run.run_id).status.final, "the end")

        assert node.run(run.run_id).status is RunState.CANCELLED
        assert worker.attempts(run.run_id) == [(1, AttemptState.CANCELLED)]


def test_the_death_of_its_worker_is_not_blamed_on_an_attempt_that_goes_on(node: Decider, tmp_path: Path) -> None:
    run = submitted(node, tmp_path)
    with working(node, tmp_path) as worker:
        worker.until(lambda: worker.handles, "the attempt")
        row = worker.store.workers.get("node-1", GLOBAL.worker_id)
    assert row is not None
    buried = bury(
        node.store, row, kill=lambda orphans: [one.handle for one in orphans], now_us=node.now_us, unasked=True
    )

    assert buried
    assert node.store.attempts.losses(run.run_id) == []


# --- what nobody will take up any more


def test_an_attempt_whose_run_waits_for_a_worker_is_let_be(node: Decider, tmp_path: Path) -> None:
    run = begun(node, tmp_path)
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))
    (handle,) = folders(tmp_path).handles()
    guardian = folders(tmp_path).process(handle, BEGUN)

    assert handle == f"{run.run_id}.0.1"
    assert guardian is not None
    assert still_runs(guardian.pid, guardian.started or "")


def test_an_attempt_whose_run_was_cancelled_is_ended_and_what_is_kept_of_it_removed(
    node: Decider, tmp_path: Path
) -> None:
    run = begun(node, tmp_path)
    with node.store.transaction():
        cancel(node.store, run.run_id, now_us=node.now_us)
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))
    wait_for(lambda: not folders(tmp_path).lives(f"{run.run_id}.0.1"), what="its end")
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))

    assert folders(tmp_path).handles() == []


def test_the_task_of_a_run_that_was_cancelled_is_ended_also_when_what_led_it_was_killed(
    node: Decider, tmp_path: Path
) -> None:
    run = begun(node, tmp_path)
    handle = f"{run.run_id}.0.1"
    task = wait_for(lambda: folders(tmp_path).process(handle, TASK), what="the task")
    guardian = folders(tmp_path).process(handle, BEGUN)
    assert task is not None
    assert guardian is not None
    os.kill(guardian.pid, SIGKILL)
    wait_for(lambda: not folders(tmp_path).lives(handle), what="the end of what led it")
    with node.store.transaction():
        cancel(node.store, run.run_id, now_us=node.now_us)
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))

    assert not still_runs(task.pid, task.started or "")
    assert folders(tmp_path).handles() == []


def test_an_attempt_that_the_database_knows_nothing_of_is_ended(node: Decider, tmp_path: Path) -> None:
    """As after a backup that is older than the attempt was put in place."""
    run = begun(node, tmp_path)
    handle = f"{run.run_id}.0.1"
    with node.store.transaction():
        assert node.store._db.write("DELETE FROM task_executions WHERE run_id = ?", (run.run_id,)) == 1
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))
    wait_for(lambda: not folders(tmp_path).lives(handle), what="its end")
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))

    assert folders(tmp_path).handles() == [handle]  # nothing may be started under that name while its run goes on


def test_for_want_of_descriptors_nothing_is_ended(node: Decider, tmp_path: Path) -> None:
    run = begun(node, tmp_path)
    with node.store.transaction():
        cancel(node.store, run.run_id, now_us=node.now_us)
    with no_descriptors():
        end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))

    assert folders(tmp_path).lives(f"{run.run_id}.0.1")


def test_what_is_no_attempt_of_ours_is_let_be(node: Decider, tmp_path: Path) -> None:
    folder = tmp_path / "attempts" / "something else"
    folder.mkdir(parents=True)
    end_unwanted(node.store, folders(tmp_path), kill=killer(tmp_path))

    assert folder.exists()
