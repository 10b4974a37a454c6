"""Who may pass: tokens, rights, hosts and origins; and that every refusal is a problem."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from cis.api.served import OwnToken, TokenCheck
from cis.app.tokens import OWNER_NAME
from cis.store.access_records import TokenRecord
from tests.worlds.serving import TOKEN, NodeUnderTest, assert_problem

DAG = {"dag_id": "x", "tasks": [{"id": "a", "command": "true"}]}
EVERY_ROUTE = [
    ("GET", "/api/v1/runs"),
    ("GET", "/api/v1/runs/x"),
    ("GET", "/api/v1/runs/x/logs"),
    ("POST", "/api/v1/runs/x/cancel"),
    ("POST", "/api/v1/dag/execute"),
    ("GET", "/api/v1/dags"),
    ("GET", "/api/v1/workers"),
    ("GET", "/api/v1/skills"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/events"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/no/such/path"),
    ("DELETE", "/api/v1/runs"),
    ("GET", "/health/"),
    ("GET", "//health"),
]


def add_token(node: NodeUnderTest, token: str, *may: str) -> None:
    """Store a token, named after its rights."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    with node.store.transaction():
        node.store.tokens.put(TokenRecord(name="+".join(may), sha256=digest, may=may, created_at_us=0))


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_without_a_token_everything_is_refused_and_nothing_is_said_of_what_exists(
    node: NodeUnderTest, method: str, path: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        answer = node.call(method, path, token=None, headers=headers)

        assert_problem(answer, 401, "auth.unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_token(node: NodeUnderTest, path: str) -> None:
    assert node.call("GET", path, token=None).status_code == 200


@pytest.mark.parametrize(
    "header", [f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer x {TOKEN}", "Bearer \xff"]
)
def test_what_only_resembles_the_token_is_refused(node: NodeUnderTest, header: str) -> None:
    answer = node.call("GET", "/api/v1/runs", token=None, headers={"Authorization": header.encode("latin-1")})

    assert_problem(answer, 401, "auth.unauthenticated")


def test_the_scheme_may_be_spelled_in_any_case(node: NodeUnderTest) -> None:
    answer = node.call("GET", "/api/v1/runs", token=None, headers={"Authorization": f"bearer {TOKEN}"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("may", "allowed"),
    [
        (("read",), {"read"}),
        (("execute",), {"execute"}),
        (("control",), {"control"}),
        (("read", "control"), {"read", "control"}),
        (("admin",), {"read", "execute", "control"}),
        ((), set()),
    ],
)
def test_a_token_does_what_its_rights_say_and_nothing_else(
    node: NodeUnderTest, may: tuple[str, ...], allowed: set[str]
) -> None:
    run_id = node.submitted().run_id
    add_token(node, "t", *may)
    requests: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
        "read": [("GET", f"/api/v1/runs/{run_id}", {}), ("GET", "/metrics", {})],
        "execute": [
            ("POST", "/api/v1/dag/execute", {"json": DAG}),
            ("POST", f"/api/v1/runs/{run_id}/rerun", {}),
        ],
        "control": [("POST", f"/api/v1/runs/{run_id}/{action}", {}) for action in ("pause", "resume", "cancel")],
    }

    for right, calls in requests.items():
        for method, path, options in calls:
            answer = node.call(method, path, token="t", **options)
            if right in allowed:
                assert answer.status_code < 300, answer.text
            else:
                assert_problem(answer, 403, "auth.forbidden")


def test_the_name_of_the_token_is_what_the_audit_shows(node: NodeUnderTest) -> None:
    add_token(node, "t", "execute")

    node.call("POST", "/api/v1/dag/execute", token="t", json=DAG)

    assert [entry.actor for entry in node.store.audit.page(limit=9)] == ["execute"]


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:6767", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:6767", True),
        ("node.test:6767", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:6767", False),
        ("192.168.1.7", False),
        ("", False),
    ],
)
def test_a_request_must_ask_for_this_node_by_one_of_its_names(node: NodeUnderTest, host: str, passes: bool) -> None:  # noqa: FBT001
    for path in ("/api/v1/runs", "/health"):
        answer = node.call("GET", path, headers={"Host": host})

        if passes:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 403, "host.forbidden")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:6767"])
def test_a_page_of_another_origin_may_not_ask_even_with_the_token(node: NodeUnderTest, origin: str) -> None:
    answer = node.call("POST", "/api/v1/dag/execute", json=DAG, headers={"Origin": origin})

    assert_problem(answer, 403, "host.forbidden")
    assert node.get("/api/v1/runs")["items"] == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_asks_for_a_page_of_another_site_is_refused(node: NodeUnderTest, site: str) -> None:
    for method, path in (("GET", "/api/v1/runs"), ("POST", "/api/v1/dag/execute")):
        answer = node.call(method, path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})

        assert_problem(answer, 403, "host.forbidden")


def test_a_page_of_this_node_may_ask(node: NodeUnderTest) -> None:
    answer = node.call("GET", "/api/v1/runs", headers={"Origin": "http://127.0.0.1:6767"})

    assert answer.status_code == 200


def test_a_fault_of_the_program_is_logged_and_not_shown(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(node.services, "read", broken)
    with caplog.at_level(logging.ERROR):
        answer = node.call("GET", "/api/v1/runs")

    assert_problem(answer, 500, "internal")
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


def test_answers_are_neither_cached_nor_guessed_at(node: NodeUnderTest) -> None:
    headers = node.call("GET", "/api/v1/runs").headers

    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("token", [TOKEN, None])
def test_no_page_may_frame_an_answer_and_the_page_of_documents_may_talk_to_this_node_alone(
    node: NodeUnderTest, token: str | None
) -> None:
    for path in ("/api/v1/runs", "/docs", "/no/such/path"):
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in node.call("GET", path, token=token).headers["content-security-policy"].split(";")
        )

        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy.get("connect-src", "'self'") == "'self'"
        assert policy.get("img-src", "data:") == "data:"
        assert ("script-src" in policy) == (path == "/docs")


def test_a_node_whose_writer_has_ended_is_not_ready_and_refuses_dags(node: NodeUnderTest) -> None:
    node.writer.close()

    assert_problem(node.call("GET", "/ready"), 503, "not_ready")
    assert_problem(node.call("POST", "/api/v1/dag/execute", json=DAG), 503, "overloaded")
    assert node.call("GET", "/health").status_code == 200


def test_a_token_that_was_named_owner_once_is_not_taken_for_the_node_s_own(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"once").hexdigest()
    record = TokenRecord(name=OWNER_NAME, sha256=digest, may=("execute",), created_at_us=0)

    async def read(_: object) -> TokenRecord | None:
        return record

    rights = asyncio.run(TokenCheck(OwnToken(tmp_path / "token"), read=read, clock_s=lambda: 0.0).stored("once"))

    assert rights is not None
    assert rights.actor != OWNER_NAME
    assert rights.asker.shares
