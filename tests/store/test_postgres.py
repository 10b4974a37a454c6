"""The store in PostgreSQL, beside what every store promises: its schema, its connection, its address."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cis.errors import StoreError, StoreNewerError, StorePoolerError, StoreUnsureError
from cis.store import Shared, open_store, shown
from cis.store.postgres import migrate as migrate_there
from cis.store.postgres.dialect import batch_of, numbers_of_schema
from cis.store.postgres.store import PostgresStore
from cis.store.sqlite import migrate as migrate_here
from tests.worlds.migrated import new_database
from tests.worlds.pooler import running_pooler
from tests.worlds.postgres import PostgresServer
from tests.worlds.rows import definition

KEPT_ELSEWHERE = {"home", "schema_steps", "schema_version", "event_numbers"}


@pytest.fixture
def address(postgres: PostgresServer, tmp_path: Path) -> Iterator[Shared]:
    """A database with the newest schema."""
    with postgres.database() as url:
        yield Shared(url, tmp_path)


@pytest.fixture
def there(address: Shared) -> Iterator[PostgresStore]:
    """A store in it."""
    store = open_store(address)
    assert isinstance(store, PostgresStore)
    yield store
    store.close()


def cut(store: PostgresStore, postgres: PostgresServer) -> None:
    """End the server's side of a store's connection."""
    pid = store._db.connection.info.backend_pid
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_both_databases_have_the_same_tables_and_columns(there: PostgresStore, tmp_path: Path) -> None:
    asked = "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    with sqlite3.connect(new_database(tmp_path)) as here:
        ours = {tuple(row) for row in here.execute(asked) if row[0] not in KEPT_ELSEWHERE | {"sqlite_sequence"}}
    asked = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    theirs = {tuple(row) for row in there._db.rows(asked) if row[0] not in KEPT_ELSEWHERE}

    assert theirs - ours == {("offers", "rowid")}
    assert ours - theirs == set()
    assert migrate_there.NEWEST == migrate_here.NEWEST == migrate_there.migrations()[-1][0]


def test_columns_of_one_name_are_of_one_type(there: PostgresStore) -> None:
    """Statements for many rows at once are made from a column's name alone (``dialect.batch_of``)."""
    asked = (
        "SELECT DISTINCT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema()"
    )
    types = there._db.rows(asked)

    assert len({name for name, _ in types}) == len(types)
    assert {kind for _, kind in types} == {"bigint", "text"}
    assert numbers_of_schema() & {name for name, _ in types} == {name for name, kind in types if kind == "bigint"}


def test_many_changes_in_one_statement_do_what_one_after_the_other_does(there: PostgresStore) -> None:
    """Also where two of them mean the same row, or a row that is not there."""
    add = "INSERT INTO peers (node_id, public_key, may, trusted_at_us) VALUES (?, ?, ?, ?)"
    change = "UPDATE peers SET trusted_at_us = ?, url = coalesce(?, url) WHERE node_id = ? AND public_key = ?"
    once = [(1, "u1", "a", "ka"), (2, None, "b", "kb"), (3, "u3", "nobody", "k")]
    batch = batch_of(change)
    assert batch is not None
    assert batch.takes(once)
    assert not batch.takes([*once, (4, "u4", "a", "ka")])
    for told, last in ((once, (1, "u1")), ([*once, (4, "u4", "a", "ka")], (4, "u4"))):
        with there.transaction():
            there._db.write("DELETE FROM peers")
            there._db.write_many(add, [("a", "ka", "", 0), ("b", "kb", "", 0)])
            assert there._db.write_many(change, told) == len(told) - 1
        got = there._db.rows("SELECT node_id, trusted_at_us, url FROM peers ORDER BY node_id")
        assert got == [("a", *last), ("b", 2, None)]


def test_ten_that_open_an_empty_database_at_once_make_one_schema(postgres: PostgresServer, tmp_path: Path) -> None:
    faults: list[Exception] = []
    with postgres.database(template="template0") as url:

        def open_it() -> None:
            try:
                open_store(Shared(url, tmp_path)).close()
            except Exception as error:  # noqa: BLE001 - told below
                faults.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        with psycopg.connect(url) as connection:
            made = connection.execute("SELECT number FROM schema_version").fetchall()

    assert faults == []
    assert made == [(migrate_there.NEWEST,)]


def test_a_newer_schema_is_refused_by_who_opens_it_and_by_who_has_it_open(
    address: Shared, there: PostgresStore
) -> None:
    with psycopg.connect(address.url) as connection:
        connection.execute("UPDATE schema_version SET number = number + 1")

    with pytest.raises(StoreNewerError):
        open_store(address)
    with pytest.raises(StoreNewerError):
        there.upkeep.check_current()


def test_a_connection_that_was_lost_is_made_anew_by_what_comes_next(
    there: PostgresStore, postgres: PostgresServer
) -> None:
    cut(there, postgres)
    assert there.definitions.current("d") is None
    cut(there, postgres)
    with there.transaction():
        there.definitions.put(definition())

    assert there.definitions.current("d") is not None


def test_a_transaction_whose_connection_is_lost_leaves_nothing(there: PostgresStore, postgres: PostgresServer) -> None:
    with pytest.raises(StoreError), there.transaction():
        there.definitions.put(definition())
        cut(there, postgres)
        there.definitions.put(definition("e"))

    assert there.definitions.current("d") is None


def test_whoever_loses_the_connection_at_the_commit_is_told_that_nobody_knows(
    there: PostgresStore, postgres: PostgresServer
) -> None:
    with pytest.raises(StoreUnsureError), there.transaction():
        there.definitions.put(definition())
        cut(there, postgres)

    assert there.definitions.current("d") is None  # here it was lost: the cut came first


def test_a_server_that_was_restarted_is_gone_on_with(there: PostgresStore, postgres: PostgresServer) -> None:
    postgres.stop()
    there.wait_at_most(0.2)
    with pytest.raises(StoreError):
        there.definitions.current("d")
    postgres.start()
    there.wait_at_most(10)

    assert there.definitions.current("d") is None


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://u:geheim@h:1/d", "postgresql://u@h:1/d"),
        ("postgresql://u@h/d?password=geheim&sslmode=require", "postgresql://u@h/d"),
        ("postgresql://u:ge?heim@h/d?sslpassword=geheim", "postgresql://u@h/d"),
        ("postgresql://:geheim@h", "postgresql://h"),
        ("postgres://h/d", "postgres://h/d"),
    ],
)
def test_no_message_has_a_password(url: str, seen: str) -> None:
    assert shown(Shared(url, Path("/h"))) == seen


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        open_store(Shared("postgresql://u:geheim@127.0.0.1:1/d", tmp_path))

    assert "127.0.0.1" in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_an_address_that_cannot_be_read_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        open_store(Shared("postgresql://u:geheim%zz@h/d?geheim", tmp_path))

    assert "geheim" not in f"{refused.value}{refused.value.__cause__}"


def test_in_a_snapshot_nothing_is_held_and_nothing_can_be_written(there: PostgresStore) -> None:
    with there._db.snapshot():
        assert there.peers.get("nobody") is None
        assert there.runs.by_key("k") is None
        with pytest.raises(StoreError):
            there._db.write("DELETE FROM peers")


def test_whoever_did_not_ask_for_it_loads_none_of_it(tmp_path: Path) -> None:
    code = "import sys; from cis.cli.main import main; main(['dag', 'list']); print([m for m in sys.modules if 'psycopg' in m or 'store.postgres' in m])"
    environ = {"CIS_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_gives_a_session_to_others_is_refused_with_the_way_out(
    address: Shared, postgres: PostgresServer, tmp_path: Path, mode: str
) -> None:
    with running_pooler(postgres, mode=mode) as port:
        through = Shared(address.url.replace(str(postgres.port), str(port)), tmp_path)
        with pytest.raises(StorePoolerError) as refused:
            open_store(through)

    assert str(refused.value) == (
        f"{shown(through)} is a pooler in transaction mode, which gives our session to others between two transactions:"
        " set 'pool_mode = session' for this database there, or name the server's own address in 'store'"
    )


def test_a_pooler_that_keeps_sessions_apart_does(address: Shared, postgres: PostgresServer, tmp_path: Path) -> None:
    with running_pooler(postgres, mode="session") as port:
        through = open_store(Shared(address.url.replace(str(postgres.port), str(port)), tmp_path))
        with through.transaction():
            number = through.definitions.put(definition())
        found = through.definitions.current("d")
        through.close()

    assert found is not None
    assert number > 0
