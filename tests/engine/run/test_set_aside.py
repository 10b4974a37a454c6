"""A run that becomes unreadable while its task runs: the process is killed before the rows stop telling of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cis.model.states import AttemptState
from tests.worlds.deciding import decider
from tests.worlds.looping import working


def test_the_process_of_a_run_that_is_set_aside_is_killed_before_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with decider(tmp_path) as node, working(node, tmp_path) as worker:
        run = node.submitted({"command": "exec sleep 60"}, scope="global", target_node="node-1")
        worker.until(lambda: worker.pids, "the process")
        worker.forget_plans()
        with node.store.transaction():
            assert node.store._db.write("UPDATE dag_runs SET status = 'odd' WHERE run_id = ?", (run.run_id,)) == 1

        seen: list[str] = []
        end, transaction = worker.loop._parts.executor.end, worker.store.transaction

        def killed(handle: str, *, force: bool) -> None:
            seen.append("KILL" if force else "TERM")
            end(handle, force=force)

        @contextmanager
        def stored(*, wait: bool = True) -> Iterator[None]:
            with transaction(wait=wait):
                yield
            seen.append("stored")

        monkeypatch.setattr(worker.loop._parts.executor, "end", killed)
        monkeypatch.setattr(worker.store, "transaction", stored)
        worker.turn()

        assert seen[:2] == ["KILL", "stored"]
        assert worker.attempts(run.run_id) == [(1, AttemptState.LOST)]
        worker.until(lambda: not worker.pids, "its end")
