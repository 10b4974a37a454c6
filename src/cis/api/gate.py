"""The gate in front of every route: it decides who may pass, counts what passed, and notes who did not.

In order: the request must ask for this node by one of its names, so that a web page cannot reach it through a name that
was bound to this address (DNS rebinding); a browser's ``Origin`` must be this node itself; the bearer's token must be
known and allow what the request does. What is not known is denied. A message of another node needs neither name nor
token: its signature is checked later, and no page in a browser can make one. Whoever passes gets a place
(``cis.api.request_limits``). Plain ASGI, because every request pays for it.

Refusals go into the audit log, few enough that they never fill the disk. Strangers have one share together and each
token has its own, so a flood of one hides nothing of another. What is over its share is not even handed to the writer.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cis.api.answers import ForbiddenHostError, internal_problem, problem_of
from cis.api.execute import VALIDATE_PATH, is_message
from cis.api.request_limits import RequestLimits, drain, may_be_large
from cis.api.served import Rights, ServedNode
from cis.app.tokens import ADMIN, CONTROL, EXECUTE, READ
from cis.errors import CisError, NotAllowedError, NotAuthenticatedError, OverloadedError
from cis.store.access_records import AuditRecord
from cis.store.shares import RefusalShares
from cis.transports.envelope import EXECUTE_PATH, MESSAGES_PATH

log = logging.getLogger(__name__)

PART_BYTES = 2**16
OPEN_PATHS = frozenset({"/health", "/ready"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DAGS_PATH = "/api/v1/dags/"
_MESSAGE_PATHS = frozenset({EXECUTE_PATH, MESSAGES_PATH})
_CONTROL_ACTIONS = ("/cancel", "/pause", "/resume")
_NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"
_DOCS_PAGE = (  # its scripts come from elsewhere: they may ask this node, and nobody else
    b"default-src 'none'; frame-ancestors 'none'; connect-src 'self'; img-src data:;"
    b" script-src https://cdn.jsdelivr.net 'unsafe-inline'; style-src https://cdn.jsdelivr.net 'unsafe-inline'"
)
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # others are counted as one
FOREIGN_SITES = frozenset({"cross-site", "same-site"})  # what browsers add by themselves (Fetch Metadata, W3C)
_LOWERED = frozenset({b"host", b"origin", b"content-type", b"sec-fetch-site"})
STRANGER = "unverified:http"
_MAX_PLACE = 200

RequestCounts = Counter[tuple[str, str, int]]


class Gate:
    """ASGI middleware; *counts* takes one more for each answer, by method, route and status."""

    def __init__(self, app: ASGIApp, *, node: ServedNode, counts: RequestCounts, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits
        self._node = node
        self._counts = counts
        self._hosts = LOOPBACK_NAMES | node.allowed_hosts
        self._refusals = Refusals(node)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket leads anywhere; the server answers 403
        answer = _Answer(send, policy=_DOCS_PAGE if scope["path"] == "/docs" else _NO_PAGE)
        try:
            rights = await self._check(scope)
        except OverloadedError as error:
            await problem_of(error)(scope, receive, answer)
        except CisError as error:
            await self._refusals.note(scope, error, now_us=self._node.this_node.clock_us())
            await problem_of(error)(scope, receive, answer)
        else:
            await self._admit(scope, receive, answer, rights=rights)
        route = scope.get("route")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._counts[method, getattr(route, "path", "other"), answer.status] += 1

    async def _admit(self, scope: Scope, receive: Receive, answer: _Answer, *, rights: Rights | None) -> None:
        """Answer a request while it has a place; a probe needs none, a message gets one once its sender is known."""
        state = scope.setdefault("state", {})
        state["limits"] = self._limits
        if rights is None:
            await self._pass(scope, receive, answer)
            return
        try:
            async with self._limits.admitted(rights.actor) as admission:
                if may_be_large(scope):
                    await admission.large()
                state["admission"] = admission
                await self._pass(scope, receive, answer)
        except OverloadedError as error:  # only of the place: the app answers its own
            await drain(receive)
            await problem_of(error)(scope, receive, answer)

    async def _pass(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            return  # nobody is there to be answered, and nothing has failed
        except Exception:
            log.exception("a request failed", extra={"method": scope["method"], "path": scope["path"]})
            if answer.status:
                raise  # the answer has begun: the connection has to break, or it would look whole
            await internal_problem()(scope, receive, answer)

    async def _check(self, scope: Scope) -> Rights | None:
        """Return what the sender of a request may; None where that is not asked: a message, a probe."""
        headers = _headers(scope["headers"])
        path = scope["path"]
        if scope["method"] == "POST" and path in _MESSAGE_PATHS and is_message(headers.get(b"content-type", "")):
            return None
        self._check_host(headers.get(b"host"), headers.get(b"origin"))
        if headers.get(b"sec-fetch-site") in FOREIGN_SITES:
            raise ForbiddenHostError("a page of another site may not ask this node")
        if path in OPEN_PATHS:
            return None
        rights = await self._bearer(headers.get(b"authorization"))
        scope.setdefault("state", {})["rights"] = rights
        right = needed_right(scope["method"], path)
        if not rights.allows(right):
            raise NotAllowedError(f"token {rights.actor!r} may not do this: it takes the right {right!r}")
        return rights

    def _check_host(self, host: str | None, origin: str | None) -> None:
        if host is None:
            return  # HTTP/1.0; no browser speaks it
        name = _without_port(host)
        if name not in self._hosts and not ("*" in self._hosts and _is_address(name)):
            raise ForbiddenHostError(f"host {host!r} is not a name of this node; see [node] host in cis.toml")
        if origin is not None and origin.partition("://")[2] != host:
            raise ForbiddenHostError(f"a page of {origin!r} may not ask this node")

    async def _bearer(self, authorization: str | None) -> Rights:
        if authorization is None:
            raise NotAuthenticatedError("a token is needed: Authorization: Bearer …; 'cis token show' prints it")
        kind, _, token = authorization.partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        rights = self._node.known_rights(token) if token else None
        if rights is None and token:
            async with self._limits.stranger():
                rights = await self._node.authenticate(token)
        if rights is None:
            raise NotAuthenticatedError("this token is not known here; 'cis token show' prints the node's own")
        return rights


def needed_right(method: str, path: str) -> str:
    """Return the right that a request takes; what is not known takes ``admin``."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return READ
    if method in ("PUT", "DELETE") and path.startswith(DAGS_PATH):
        return EXECUTE
    if method != "POST":
        return ADMIN
    if path in (EXECUTE_PATH, VALIDATE_PATH) or path.endswith("/rerun"):
        return EXECUTE
    return CONTROL if path.endswith(_CONTROL_ACTIONS) else ADMIN


class _Answer:
    """Sends an answer on, with the headers that all have; knows its status once it has begun (0 before)."""

    __slots__ = ("_policy", "_send", "status")

    def __init__(self, send: Callable[[Message], Awaitable[None]], *, policy: bytes) -> None:
        self._send = send
        self._policy = policy
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body" and len(message.get("body", b"")) > PART_BYTES:
            await self._send_parts(message)
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            policy = (b"content-security-policy", self._policy)
            message["headers"] = [*message.get("headers", ()), *_HEADERS, policy]
        await self._send(message)

    async def _send_parts(self, message: Message) -> None:
        """Send a large body part by part, so that a client which reads is told from one that does not."""
        body = memoryview(message["body"])
        for start in range(0, len(body), PART_BYTES):
            more = start + PART_BYTES < len(body) or message.get("more_body", False)
            part = bytes(body[start : start + PART_BYTES])
            await self._send({"type": "http.response.body", "body": part, "more_body": more})


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Return the headers that are looked at here; names of hosts are lower case, as they compare."""
    found = {}
    for name, value in raw:
        if name in _LOWERED:
            found[name] = value.decode("latin-1").lower()
        elif name == b"authorization":
            found[name] = value.decode("latin-1")
    return found


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Refusals:
    """Writes down refusals, of each actor no more than its share, and how many were left out."""

    def __init__(self, node: ServedNode) -> None:
        self._node = node
        self._shares = RefusalShares()

    async def note(self, scope: Scope, error: CisError, *, now_us: int) -> None:
        """Write down that a request was refused; a store that takes nothing changes no answer."""
        rights: Rights | None = scope.get("state", {}).get("rights")
        client = scope.get("client")
        entry = self._shares.admit(
            AuditRecord(
                at_us=now_us,
                actor=STRANGER if rights is None else rights.actor,
                action="refused.http",
                subject=f"{error.code} {_place(scope)}",
                source=client[0] if client else "unknown",
            )
        )
        if entry is None:
            return
        try:
            await self._node.write(lambda store: store.audit.append(entry))
        except CisError as failed:
            log.warning("a refusal could not be written down", extra={"error": str(failed)})


def _place(scope: Scope) -> str:
    """Return method and path without the query, in letters that any terminal only shows."""
    text = f"{scope['method']} {scope['path']}"[:_MAX_PLACE]
    return text if text.isascii() and text.isprintable() else ascii(text)
