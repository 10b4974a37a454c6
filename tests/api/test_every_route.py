"""Nothing is answered without the right: every route, stream and path of the app, whatever the method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from cis.store.access_records import TokenRecord
from tests.worlds.serving import TOKEN, NodeUnderTest, assert_problem

OPEN = {("GET", "/health"), ("GET", "/ready"), ("POST", "/api/v1/peers/messages")}
RIGHTS = {
    ("GET", "/api/v1/dags"): "read",
    ("GET", "/api/v1/dags/{dag_id}"): "read",
    ("GET", "/api/v1/runs"): "read",
    ("GET", "/api/v1/runs/{run_id}"): "read",
    ("GET", "/api/v1/runs/{run_id}/logs"): "read",
    ("GET", "/api/v1/events"): "read",
    ("GET", "/api/v1/workers"): "read",
    ("GET", "/api/v1/workers/{worker_id}"): "read",
    ("GET", "/api/v1/nodes"): "read",
    ("GET", "/api/v1/skills"): "read",
    ("GET", "/metrics"): "read",
    ("GET", "/openapi.json"): "read",
    ("GET", "/docs"): "read",
    ("POST", "/api/v1/dag/execute"): "execute",
    ("POST", "/api/v1/dag/validate"): "execute",
    ("PUT", "/api/v1/dags/{dag_id}"): "execute",
    ("DELETE", "/api/v1/dags/{dag_id}"): "execute",
    ("POST", "/api/v1/runs/{run_id}/rerun"): "execute",
    ("POST", "/api/v1/runs/{run_id}/cancel"): "control",
    ("POST", "/api/v1/runs/{run_id}/pause"): "control",
    ("POST", "/api/v1/runs/{run_id}/resume"): "control",
}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "BREW")
NOWHERE = (
    "/",
    "/static/app.js",
    "/docs/oauth2-redirect",
    "/redoc",
    "/api",
    "/api/v2/runs",
    "/health/x",
    "/%2e%2e/token",
)
ALL_RIGHTS = ("read", "execute", "control")


def routes(node: NodeUnderTest) -> Iterator[tuple[str, str]]:
    """Yield every method and path that the app answers: those that it describes, and its own two pages."""
    for path, operations in node.app.openapi()["paths"].items():
        for method in operations:
            yield method.upper(), path
    yield "GET", "/openapi.json"
    yield "GET", "/docs"


def filled(path: str, run_id: str) -> str:
    """Return a path of something that exists."""
    names = {"{run_id}": run_id, "{dag_id}": "demo", "{worker_id}": "worker-global"}
    for name, value in names.items():
        path = path.replace(name, value)
    return path


def add_token(node: NodeUnderTest, *may: str) -> str:
    """Store a token with these rights, and return it."""
    token = "token-" + "-".join(may)
    digest = hashlib.sha256(token.encode()).hexdigest()
    with node.store.transaction():
        node.store.tokens.put(TokenRecord(name=token, sha256=digest, may=may, created_at_us=0))
    return token


def state(node: NodeUnderTest) -> object:
    """Return what a request could have changed."""
    runs = node.store.runs.unfinished_counts()
    return dict(runs), node.store.events.last_seq(), node.store.queue.waiting_count(node.this_node.node_id)


def test_every_route_of_the_app_has_a_right_and_none_is_open_by_mistake(node: NodeUnderTest) -> None:
    served = {route.path for route in node.app.routes if hasattr(route, "path")}

    assert set(routes(node)) == OPEN | RIGHTS.keys()
    assert served <= {path for _, path in OPEN | RIGHTS.keys()}


@pytest.mark.parametrize("method", METHODS)
def test_no_path_says_anything_to_a_stranger_whatever_the_method(node: NodeUnderTest, method: str) -> None:
    run_id = node.submitted().run_id
    before = state(node)
    paths = {filled(path, run_id) for _, path in RIGHTS} | {filled(path, "no-such-run") for _, path in RIGHTS}
    for path in sorted(paths | set(NOWHERE)):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"token={TOKEN}"}):
            answer = node.call(method, f"{path}?token={TOKEN}&access_token={TOKEN}", token=None, headers=headers)

            assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
            assert "set-cookie" not in answer.headers
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            if method != "HEAD":
                assert_problem(answer, 401, "auth.unauthenticated")
    assert state(node) == before


@pytest.mark.parametrize("lacking", ALL_RIGHTS)
def test_no_route_is_reached_with_every_right_but_the_one_that_it_takes(node: NodeUnderTest, lacking: str) -> None:
    run_id = node.submitted().run_id
    token = add_token(node, *(right for right in ALL_RIGHTS if right != lacking))
    before = state(node)
    for (method, path), right in RIGHTS.items():
        if right == lacking:
            answer = node.call(method, filled(path, run_id), token=token)

            assert_problem(answer, 403, "auth.forbidden")
    assert state(node) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "BREW"])
def test_what_no_route_knows_takes_the_right_to_everything(node: NodeUnderTest, method: str) -> None:
    token = add_token(node, *ALL_RIGHTS)
    for path in ("/api/v1/runs", "/docs", *NOWHERE):
        assert_problem(node.call(method, path, token=token), 403, "auth.forbidden")


def test_a_token_that_was_revoked_opens_nothing_and_a_message_of_a_node_needs_a_signature(node: NodeUnderTest) -> None:
    token = add_token(node, "admin")
    with node.store.transaction():
        assert node.store.tokens.delete(token)

    assert_problem(node.call("GET", "/api/v1/runs", token=token), 401, "auth.unauthenticated")
    for path in ("/api/v1/peers/messages", "/api/v1/dag/execute"):
        headers = {"Content-Type": "application/vnd.cis.message"}
        answer = node.call("POST", path, token=TOKEN, content=b"{}\n", headers=headers)
        assert answer.status_code in (400, 401), answer.text
    assert state(node) == ({}, 0, 0)
