"""The audit log only grows, whoever speaks SQL to the database; and it can be asked for a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cis.store import open_store
from cis.store.access_records import AuditFilter, AuditRecord
from cis.store.shares import MAX_REFUSALS, WITHIN_US
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database

ENTRIES = (
    AuditRecord(at_us=10, actor="user:alice", action="token.create", subject="ci", source="cli"),
    AuditRecord(at_us=20, actor="ci", action="dag.execute", subject="r1", source="10.0.0.7"),
    AuditRecord(at_us=30, actor="unverified:http", action="refused.http", subject="GET /", source="10.0.0.8"),
    AuditRecord(at_us=40, actor="ci", action="refused.http", subject="POST /", source="10.0.0.7"),
    AuditRecord(at_us=50, actor="node:b", action="refused.execute", subject="r2", source="10.0.0.9"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with ``ENTRIES`` in its audit log."""
    store = open_store(new_database(tmp_path))
    with store.transaction():
        for entry in ENTRIES:
            store.audit.append(entry)
    yield store
    store.close()


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 1",
        "UPDATE audit SET actor = 'somebody else' WHERE seq = 2",
        "UPDATE audit SET seq = 99 WHERE seq = 2",
        "UPDATE OR REPLACE audit SET seq = 1 WHERE seq = 2",
        "INSERT OR REPLACE INTO audit VALUES (2, 0, 'x', 'x', 'x', 'x')",
        "INSERT INTO audit VALUES (2, 0, 'x', 'x', 'x', 'x') ON CONFLICT (seq) DO UPDATE SET actor = 'x'",
        "REPLACE INTO audit (seq, at_us, actor, action, subject, source) SELECT seq, 0, '', '', '', '' FROM audit",
    ],
)
def test_no_statement_changes_or_removes_what_was_written_down(store: SqliteStore, attack: str) -> None:
    before = store.audit.page(limit=9)
    connection = apsw.Connection(str(store.path))
    try:
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            connection.execute(attack)
    finally:
        connection.close()

    assert store.audit.page(limit=9) == before
    assert len(before) == len(ENTRIES)


@pytest.mark.parametrize(
    ("where", "subjects"),
    [
        (AuditFilter(), ["r2", "POST /", "GET /", "r1", "ci"]),
        (AuditFilter(since_us=30), ["r2", "POST /", "GET /"]),
        (AuditFilter(actor="ci"), ["POST /", "r1"]),
        (AuditFilter(action="refused"), ["r2", "POST /", "GET /"]),
        (AuditFilter(action="refused.http"), ["POST /", "GET /"]),
        (AuditFilter(action="refuse"), []),
        (AuditFilter(action="%"), []),
        (AuditFilter(action="' OR 1 = 1 --"), []),
        (AuditFilter(since_us=40, actor="ci", action="refused"), ["POST /"]),
    ],
)
def test_a_part_of_the_audit_log_is_chosen_by_time_actor_and_action(
    store: SqliteStore, where: AuditFilter, subjects: list[str]
) -> None:
    assert [entry.subject for entry in store.audit.page(where, limit=9)] == subjects


def test_refusals_of_one_actor_fill_neither_the_log_nor_hide_another_and_how_many_there_were_is_told(
    store: SqliteStore,
) -> None:
    base_us = 2 * WITHIN_US
    peer = AuditRecord(at_us=base_us, actor="node:c", action="refused.control", subject="r", source="10.0.0.9")
    with store.transaction():
        for _ in range(MAX_REFUSALS + 5):
            store.audit.append(peer)
        for number in range(MAX_REFUSALS + 5):  # names that anybody claims are no actors
            store.audit.append(peer._replace(actor=f"unverified:{number}"))
        for _ in range(MAX_REFUSALS + 5):
            store.audit.append(peer._replace(action="dag.execute"))
        store.audit.append(peer._replace(at_us=base_us + WITHIN_US))

    newest, *others = store.audit.page(AuditFilter(action="refused", since_us=base_us), limit=1000)
    assert newest.subject == "r; 5 more were refused before"
    assert sum(one.actor == "node:c" for one in others) == MAX_REFUSALS
    assert sum(one.actor.startswith("unverified:") for one in others) == MAX_REFUSALS
    assert len(store.audit.page(AuditFilter(action="dag.execute", since_us=base_us), limit=1000)) == MAX_REFUSALS + 5
