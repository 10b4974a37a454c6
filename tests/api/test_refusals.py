"""What the gate turns away is written down, and a flood of it neither fills the disk nor hides anything."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from cis.api.gate import Refusals
from cis.api.served import Rights
from cis.errors import NotAuthenticatedError
from cis.store.access_records import AuditFilter, AuditRecord, TokenRecord
from cis.store.shares import MAX_REFUSALS, WITHIN_US
from tests.worlds.serving import NodeUnderTest, assert_problem

REFUSED = AuditFilter(action="refused")


def refused(node: NodeUnderTest) -> list[AuditRecord]:
    """Return the refusals of the audit log, newest first."""
    return list(node.store.audit.page(REFUSED, limit=1000))


def add_reader(node: NodeUnderTest, token: str, *, name: str = "reader") -> None:
    """Store a token that may read."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    with node.store.transaction():
        node.store.tokens.put(TokenRecord(name=name, sha256=digest, may=("read",), created_at_us=0))


def test_who_was_refused_what_and_from_where_is_written_down_without_what_was_shown_as_token(
    node: NodeUnderTest,
) -> None:
    add_reader(node, "r")
    assert_problem(
        node.call("GET", "/api/v1/runs?token=leaked", token="guessed"),
        401,
        "auth.unauthenticated",
    )
    assert_problem(node.call("POST", "/api/v1/runs/x/cancel", token="r"), 403, "auth.forbidden")
    assert_problem(node.call("GET", "/health", headers={"Host": "evil.example"}), 403, "host.forbidden")

    entries = [(one.actor, one.action, one.subject, one.source) for one in refused(node)]
    assert entries == [
        ("unverified:http", "refused.http", "host.forbidden GET /health", "127.0.0.9"),
        ("reader", "refused.http", "auth.forbidden POST /api/v1/runs/x/cancel", "127.0.0.9"),
        ("unverified:http", "refused.http", "auth.unauthenticated GET /api/v1/runs", "127.0.0.9"),
    ]
    assert not [one for one in entries if "guessed" in str(one) or "leaked" in str(one)]


def test_a_flood_of_strangers_is_written_down_up_to_the_bound_and_hides_no_refused_token(node: NodeUnderTest) -> None:
    add_reader(node, "r")
    for number in range(MAX_REFUSALS + 20):
        assert node.call("GET", f"/{number}/" + "x" * 5000, token=None).status_code == 401
    assert node.call("POST", "/api/v1/runs/x/cancel", token="r").status_code == 403

    newest, *others = refused(node)
    assert newest.actor == "reader"
    assert len(others) == MAX_REFUSALS
    assert max(len(one.subject) for one in others) < 300


def test_each_token_has_a_share_of_its_own(node: NodeUnderTest) -> None:
    add_reader(node, "a", name="loud")
    add_reader(node, "b", name="quiet")
    for _ in range(MAX_REFUSALS + 20):
        assert node.call("POST", "/api/v1/runs/x/cancel", token="a").status_code == 403
    assert node.call("POST", "/api/v1/runs/x/cancel", token="b").status_code == 403

    assert [one.actor for one in refused(node)] == ["quiet"] + ["loud"] * MAX_REFUSALS


def test_how_many_were_left_out_is_written_down_when_the_next_hour_begins(node: NodeUnderTest) -> None:
    scope = {"type": "http", "method": "GET", "path": "/secret\x1b[2J", "client": ("10.0.0.1", 1)}

    async def flood() -> None:
        refusals = Refusals(node.services)
        for number in range(MAX_REFUSALS + 7):
            await refusals.note(scope, NotAuthenticatedError("no"), now_us=number)
        await refusals.note(scope, NotAuthenticatedError("no"), now_us=WITHIN_US)

    asyncio.run(flood())

    newest, *others = refused(node)
    assert newest.subject.endswith("; 7 more were refused before")
    assert len(others) == MAX_REFUSALS
    assert newest.subject.isprintable()


def test_a_store_that_takes_nothing_changes_no_refusal(node: NodeUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    node.writer.close()

    assert_problem(node.call("GET", "/api/v1/runs", token=None), 401, "auth.unauthenticated")
    assert "could not be written down" in caplog.text


def test_a_holder_of_a_token_is_named_by_it_and_nobody_else_is(node: NodeUnderTest) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "client": None,
        "state": {"rights": Rights("ci", frozenset())},
    }

    asyncio.run(Refusals(node.services).note(scope, NotAuthenticatedError("no"), now_us=0))

    (entry,) = refused(node)
    assert (entry.actor, entry.source) == ("ci", "unknown")
