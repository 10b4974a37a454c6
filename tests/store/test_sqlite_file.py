"""The SQLite file: who may read it, how it is made and migrated, what it says when it cannot be used."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import apsw
import pytest

from cis.errors import StoreBusyError, StoreDamagedError, StoreError, StoreGoneError
from cis.store import open_store
from cis.store.sqlite import connection as connection_module
from cis.store.sqlite import migrate as migrate_module
from cis.store.sqlite.connection import check_version
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database
from tests.worlds.rows import attempts_of, definition, put_run

OPENER = """
import sys
from pathlib import Path
from cis.store import open_store
print("ready", flush=True)
for line in sys.stdin:
    open_store(Path(line.strip())).close()
    print("opened", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with one run."""
    store = open_store(new_database(tmp_path))
    put_run(store, "r1")
    yield store
    store.close()


def schema(path: Path) -> list[tuple[object, ...]]:
    """Return everything that the database at *path* consists of."""
    connection = apsw.Connection(str(path))
    found = list(connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"))
    connection.close()
    return found


def test_only_its_owner_may_read_the_file_and_what_lies_beside_it(store: SqliteStore) -> None:
    files = list(store.path.parent.glob("cis.db*"))

    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_commit_is_on_disk_before_it_returns(store: SqliteStore) -> None:
    """WAL with synchronous FULL: a power cut after a commit loses nothing."""
    assert store._db.connection.pragma("journal_mode") == "wal"
    assert store._db.connection.pragma("synchronous") == 2
    assert store._db.connection.pragma("foreign_keys") == 1
    assert store._db.connection.pragma("wal_autocheckpoint") == 500


def test_a_read_keeps_no_view_of_the_database_open(store: SqliteStore) -> None:
    """Otherwise the write-ahead log could not be reset while a reader is idle, and would grow without end."""
    other = open_store(store.path)
    store.tasks.of_run("r1")
    assert store.runs.heads(["r1"])["r1"].version == 1
    put_run(other, "r2")
    other._db.connection.set_busy_timeout(0)
    left, _ = other._db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    other.close()

    assert left == 0


def test_the_parts_of_a_snapshot_are_answered_from_the_same_moment_and_it_is_not_kept(store: SqliteStore) -> None:
    other = open_store(store.path)
    with store._db.snapshot():
        before = store.runs.heads(["r2"])
        put_run(other, "r2")
        within = store.runs.heads(["r2"])
    after = store.runs.heads(["r2"])
    with pytest.raises(RuntimeError), store._db.snapshot():
        raise RuntimeError
    other._db.connection.set_busy_timeout(0)
    left, _ = other._db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    other.close()

    assert (before, within, list(after)) == ({}, {}, ["r2"])
    assert left == 0


def test_the_migrations_are_numbered_without_gaps_up_to_the_newest() -> None:
    assert [number for number, _ in migrate_module.migrations()] == list(range(1, migrate_module.NEWEST + 1))


@pytest.mark.parametrize("start", range(1, migrate_module.NEWEST + 1))
def test_a_database_of_any_earlier_schema_becomes_the_newest_and_keeps_its_rows(tmp_path: Path, start: int) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    before = apsw.Connection(str(old))
    for number, file in migrate_module.migrations()[:start]:
        before.execute(file.read_text(encoding="utf-8"))
        before.execute(f"PRAGMA user_version = {number}")
    before.execute(
        "INSERT INTO dag_definitions (dag_id, sha256, document, task_count, created_at_us)"
        " VALUES ('kept', 'x', '{}', 1, 1)"
    )
    before.close()
    open_store(new).close()
    store = open_store(old)
    kept = store.definitions.current("kept")
    store.close()

    assert kept is not None
    assert str(kept.scope) == "global"
    assert schema(old) == schema(new)


def test_runs_tasks_attempts_and_the_queue_of_the_first_schema_are_read_by_this_program(tmp_path: Path) -> None:
    before = apsw.Connection(str(tmp_path / "cis.db"))
    before.execute(migrate_module.migrations()[0][1].read_text(encoding="utf-8") + "PRAGMA user_version = 1")
    before.execute(
        "INSERT INTO dag_definitions VALUES (1, 'd', 's', 'global', '', NULL, 20, '', 1, 1, NULL, '{}');"
        "INSERT INTO dag_runs VALUES ('r1', 'd', 1, 'running', 2, 'global', '', 'default', 'worker-global', 'n', 'n',"
        " NULL, 20, 'local', 1, 1, 2, NULL, 0, NULL, NULL, NULL, NULL, NULL, 0);"
        "INSERT INTO run_tasks (run_id, task_no, task_id, status, version, attempts, failures)"
        " VALUES ('r1', 0, 't0', 'running', 2, 1, 0);"
        "INSERT INTO task_executions (run_id, task_no, attempt, task_id, status, worker_id, epoch, started_at_us)"
        " VALUES ('r1', 0, 1, 't0', 'running', 'worker-global', 1, 2);"
        "INSERT INTO worker_queue VALUES (1, 'n', 'worker-global', 'r1', 'claimed', 20, 1, 1, '{}');"
    )
    before.close()
    store = open_store(tmp_path / "cis.db")
    run, claimed = store.runs.get("r1"), store.queue.get("r1")
    tasks, attempts = store.tasks.of_run("r1"), attempts_of(store, "r1")
    store.close()

    assert run is not None
    assert (run.status, run.version) == ("running", 2)
    assert [task.status for task in tasks] == ["running"]
    assert [one.attempt for one in attempts] == [1]
    assert claimed is not None


def test_opening_a_second_time_changes_nothing(store: SqliteStore) -> None:
    before = schema(store.path)
    again = open_store(store.path)

    assert again.runs.get("r1") == store.runs.get("r1")
    assert schema(store.path) == before
    again.close()


def start_opener() -> subprocess.Popen[str]:
    """Start a process that opens each database that it is told of."""
    return subprocess.Popen([sys.executable, "-c", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answers(openers: list[subprocess.Popen[str]]) -> set[str]:
    """Return what the processes say next."""
    return {opener.stdout.readline() for opener in openers if opener.stdout is not None}


def test_many_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    """With many files, since not every one of them becomes a race."""
    with ExitStack() as stack:
        openers = [stack.enter_context(start_opener()) for _ in range(8)]
        assert answers(openers) == {"ready\n"}
        for number in range(40):
            for opener in openers:
                assert opener.stdin is not None
                opener.stdin.write(f"{tmp_path}/{number}.db\n")
                opener.stdin.flush()
            assert answers(openers) == {"opened\n"}
    open_store(tmp_path / "alone.db").close()

    for number in range(40):
        assert schema(tmp_path / f"{number}.db") == schema(tmp_path / "alone.db")


def test_a_migration_that_fails_leaves_the_schema_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path / "cis.db").close()
    before = schema(tmp_path / "cis.db")
    folder = tmp_path / "migrations"
    folder.mkdir()
    broken = migrate_module.NEWEST + 1
    (folder / "0001_initial.sql").write_text("SELECT 1;")
    (folder / f"{broken:04}_broken.sql").write_text("CREATE TABLE half (a INTEGER); CREATE TABLE half (a INTEGER);")
    monkeypatch.setattr(migrate_module, "FOLDER", folder)
    monkeypatch.setattr(migrate_module, "NEWEST", broken)

    with pytest.raises(StoreError, match="half already exists"):
        open_store(tmp_path / "cis.db")
    assert schema(tmp_path / "cis.db") == before


def test_a_database_of_a_newer_program_is_refused(store: SqliteStore) -> None:
    store._db.connection.execute("PRAGMA user_version = 99")

    with pytest.raises(StoreError, match=r"schema 99, this program knows \d+; install a newer cis-dag"):
        open_store(store.path)


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.0", "3.51.2"])
def test_a_sqlite_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(StoreError, match=f"SQLite {version} can lose committed writes"):
        check_version(version)


@pytest.mark.parametrize("version", ["3.44.6", "3.50.7", "3.51.3", "3.54.1", "4.0.0"])
def test_a_mended_sqlite_is_taken(version: str) -> None:
    check_version(version)


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cis.db"
    path.write_text("no database" * 1000)

    with pytest.raises(StoreError, match=r"cis\.db is damaged .*cis db restore"):
        open_store(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing/cis\.db cannot be read or written"):
        open_store(tmp_path / "missing" / "cis.db")


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_program_whose_database_was_removed_makes_no_other_in_its_place(tmp_path: Path, *, folder_too: bool) -> None:
    path = new_database(tmp_path)
    open_store(path, again=True).close()
    if folder_too:
        path.parent.rename(tmp_path.parent / f"{tmp_path.name}-away")
    else:
        path.unlink()

    with pytest.raises(StoreGoneError, match="removed or replaced"):
        open_store(path, again=True)
    assert not path.exists()


def test_a_database_that_others_keep_locked_says_to_try_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT_MS", 10)
    other = open_store(store.path)
    with store.transaction(), pytest.raises(StoreBusyError, match="try again") as caught, other.transaction():
        pass
    other.close()

    assert caught.value.retry_after_s > 0
    assert isinstance(caught.value.__cause__, apsw.BusyError)


def test_a_lock_that_was_long_waited_for_is_taken_soon_after_it_is_let_go(store: SqliteStore) -> None:
    """Else a process that writes again and again would keep all others from writing."""

    def late_s() -> float:
        took_s: list[float] = []
        asks = threading.Event()

        def take() -> None:
            other = open_store(store.path)
            asks.set()
            with other.transaction():
                took_s.append(time.monotonic())
            other.close()

        with store.transaction():
            waiter = threading.Thread(target=take)
            waiter.start()
            asks.wait()
            waiter.join(0.35)  # SQLite's own next tries would be after 0.33 and 0.43 seconds
        free_s = time.monotonic()
        waiter.join()
        return took_s[0] - free_s

    assert min(late_s() for _ in range(5)) < 0.05


def test_a_full_disk_is_said_to_be_that_and_nothing_is_half_written(store: SqliteStore) -> None:
    store._db.connection.pragma("max_page_count", store._db.connection.pragma("page_count"))
    with pytest.raises(StoreError, match="the disk is full"), store.transaction():
        for number in range(1000):
            store.definitions.put(definition(f"d{number}", "x" * 1000))
    store._db.connection.pragma("max_page_count", 2**30)

    assert [one.dag_id for one in store.definitions.page(limit=5).items] == ["d"]
    put_run(store, "r2")


def test_a_damaged_file_is_reported_and_a_sound_one_is_not(store: SqliteStore) -> None:
    assert store.upkeep.faults() == []
    store._db.connection.execute("PRAGMA foreign_keys = OFF; DELETE FROM dag_runs")

    assert store.upkeep.faults() == ["run_tasks: 2 rows refer to a row of dag_runs that is gone"]


def spoil(store: SqliteStore) -> None:
    """Overwrite the first page of a table in the file, behind the back of whoever has it open."""
    ((page,),) = store._db.rows("SELECT rootpage FROM sqlite_schema WHERE name = 'run_tasks'")
    store._db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    with store.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


def test_damage_is_found_in_the_file_although_a_sound_page_is_still_in_memory(store: SqliteStore) -> None:
    assert store.upkeep.faults(quick=True) == []
    assert len(store.tasks.of_run("r1")) == 2
    spoil(store)

    assert "is damaged" in store.upkeep.faults(quick=True)[0]


def test_a_file_with_a_page_of_noise_is_reported_as_damaged(store: SqliteStore) -> None:
    """SQLite gives up the search for lost references in such a file: that must not hide what it has found before."""
    spoil(store)
    store.close()
    damaged = open_store(store.path)
    faults = damaged.upkeep.faults()
    with pytest.raises(StoreDamagedError, match=r"cis\.db is damaged .*cis db restore"):
        damaged.tasks.of_run("r1")
    damaged.close()

    assert faults


def test_a_backup_is_a_store_of_one_moment_that_only_its_owner_may_read(store: SqliteStore, tmp_path: Path) -> None:
    store.upkeep.back_up(tmp_path / "copy.db")
    put_run(store, "r2")
    copy = open_store(tmp_path / "copy.db")

    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert copy.runs.get("r1") == store.runs.get("r1")
    assert copy.runs.get("r2") is None
    assert copy.upkeep.faults() == []
    copy.close()


def test_waits_for_the_write_lock_grow_but_never_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many workers that ask again at once would keep a core busy; one that sleeps long would never find a gap."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    database = connection_module.Database(tmp_path / "cis.db")
    try:
        assert all(database._wait_for_lock(tries) for tries in range(100))
    finally:
        database.close()

    assert waits[0] == connection_module.LOCK_PAUSE_S
    assert waits == sorted(waits)
    assert max(waits) == connection_module.LONGEST_PAUSE_S
