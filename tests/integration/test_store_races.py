"""32 threads and 8 processes racing to advance one run: exactly one wins each version."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from cis.errors import StaleVersionError
from cis.model.states import RunState
from cis.store.records import RunChange
from cis.store.sqlite.store import open_sqlite
from tests.contract.store.rows import put_run

THREADS = 32
PROCESSES = 8
VERSIONS = 40

RACER = """
import json, sys
from pathlib import Path
from tests.integration.test_store_races import race
print(json.dumps(race(Path(sys.argv[1]), int(sys.argv[2]))))
"""


def race(path: Path, until: int) -> list[int]:
    """Advance the run ``r`` between running and paused until its version is *until*; return the versions won."""
    store = open_sqlite(path)
    won: list[int] = []
    try:
        while True:
            run = store.run("r")
            assert run is not None
            if run.version >= until:
                return won
            to = RunState.PAUSED if run.status is RunState.RUNNING else RunState.RUNNING
            try:
                with store.transaction():
                    won.append(store.change_run(run, RunChange(status=to)).version)
            except StaleVersionError:
                continue
    finally:
        store.close()


def test_exactly_one_of_many_threads_wins_each_version(tmp_path: Path) -> None:
    path = tmp_path / "cis.db"
    store = open_sqlite(path)
    put_run(store, "r")
    won: list[int] = []
    gate = threading.Barrier(THREADS)

    def racer() -> None:
        gate.wait()
        won.extend(race(path, VERSIONS))

    threads = [threading.Thread(target=racer) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    run = store.run("r")
    store.close()

    assert sorted(won) == list(range(2, VERSIONS + 1))
    assert run is not None
    assert run.version == VERSIONS


def test_exactly_one_of_many_processes_wins_each_version(tmp_path: Path) -> None:
    path = tmp_path / "cis.db"
    store = open_sqlite(path)
    put_run(store, "r")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(VERSIONS * 10)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(PROCESSES)
    ]
    results = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    run = store.run("r")
    store.close()

    assert sorted(version for won in results for version in won) == list(range(2, VERSIONS * 10 + 1))
    assert run is not None
    assert run.version == VERSIONS * 10
