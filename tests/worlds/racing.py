"""Racers for ``test_store_races``: who reads the run ``r``, and tries to change it as it was read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cis.errors import StaleVersionError
from cis.model.states import RunState
from cis.store import open_store
from cis.store.records import RunChange, RunRecord
from cis.store.sqlite.store import SqliteStore

ROUNDS = 20
ENDS = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)
Step = tuple[int, str, str]


def read(store: SqliteStore) -> RunRecord:
    """Return the run."""
    run = store.runs.get("r")
    assert run is not None
    return run


def step(store: SqliteStore, run: RunRecord, to: RunState) -> Step | None:
    """Try to move the run as it was read; return the version that this made and the arrow, or None."""
    try:
        with store.transaction():
            changed = store.runs.change(run, RunChange(status=to))
    except StaleVersionError:
        return None
    return (changed.version, str(run.status), str(changed.status))


def target(run: RunRecord, *, turn: int, number: int) -> RunState:
    """Return where a racer wants the run: back and forth, and in the last turn to an end of its own."""
    if turn == ROUNDS - 1:
        return ENDS[number % 3]
    return RunState.PAUSED if run.status is RunState.RUNNING else RunState.RUNNING


def race(path: Path, *, number: int) -> None:
    """Be a racer in a process of its own: each line of input is a signal to read the run, or to change it."""
    store = open_store(path)
    for turn in range(ROUNDS):
        sys.stdin.readline()
        run = read(store)
        sys.stdout.write(f"{run.version}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(json.dumps(step(store, run, target(run, turn=turn, number=number))) + "\n")
        sys.stdout.flush()
    store.close()
