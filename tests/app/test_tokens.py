"""Tokens: one of each name, of which the store keeps a hash, and an entry of the audit log for each change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.app.actor import Actor
from cis.app.tokens import create_token, revoke_token, rotate_own_token, token_name_fault
from cis.errors import ConflictError, NotFoundError
from cis.model.scope_rules import given_patterns
from cis.store import open_store
from cis.store.port import Store
from cis.store.sqlite.store import SqliteStore

ALICE = Actor(name="user:alice", source="cli")


@pytest.fixture
def store(database: Path) -> Iterator[SqliteStore]:
    store = open_store(database)
    yield store
    store.close()


def make(store: SqliteStore, name: str, *, scopes: str | None = None) -> None:
    patterns = None if scopes is None else given_patterns(scopes)
    with store.transaction():
        create_token(store, name, secret="geheim", may=("read",), scopes=patterns, by=ALICE, now_us=7)


def audited(store: Store) -> list[tuple[str, str]]:
    return [(one.action, one.subject) for one in store.audit.page(limit=99)]


def test_a_token_is_kept_as_a_hash_and_audited_with_its_scopes(store: SqliteStore) -> None:
    make(store, "ci", scopes="project:a")

    (token,) = store.tokens.all()
    assert (token.name, token.may, token.created_at_us) == ("ci", ("read",), 7)
    assert len(token.sha256) == 64
    assert "geheim" not in repr(token)
    assert audited(store) == [("token.create", "ci in scopes project:a")]


def test_a_name_is_given_once_and_again_after_it_was_revoked(store: SqliteStore) -> None:
    make(store, "ci")
    with pytest.raises(ConflictError):
        make(store, "ci")
    with store.transaction():
        revoke_token(store, "ci", by=ALICE, now_us=8)
    make(store, "ci")

    assert [action for action, _ in audited(store)] == ["token.create", "token.revoke", "token.create"]


def test_only_a_token_that_is_there_is_revoked(store: SqliteStore) -> None:
    with pytest.raises(NotFoundError), store.transaction():
        revoke_token(store, "ci", by=ALICE, now_us=8)

    assert audited(store) == []


@pytest.mark.parametrize("name", ["owner", "a b", ""])
def test_a_name_that_is_no_id_or_kept_for_the_nodes_own_token_is_refused(name: str) -> None:
    assert token_name_fault(name)
    assert token_name_fault("ci") is None


def test_the_own_token_is_audited_as_the_owners(store: SqliteStore) -> None:
    assert rotate_own_token(store, lambda: "new", by=ALICE, now_us=8) == "new"
    assert audited(store) == [("token.rotate", "owner")]
