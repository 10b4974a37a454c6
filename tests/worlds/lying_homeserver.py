"""A homeserver for tests that does as it is told: it withholds events, repeats them later, and lies about their age.

It has the few endpoints that a node uses, one room, and a user for each access token. It says that it took everything.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROOM_ID = "!lies:cis.test"
POLL_S = 5.0


@dataclass(slots=True)
class Event:
    """One event of the room, and when it came; *age_ms* is what is said of its age, None the truth."""

    event_id: str
    sender: str
    type: str
    content: Mapping[str, Any]
    at_s: float
    age_ms: int | None = None

    def shown(self) -> dict[str, Any]:
        """Return it as ``/sync`` has it."""
        age_ms = round((time.monotonic() - self.at_s) * 1000) if self.age_ms is None else self.age_ms
        return {
            "event_id": self.event_id,
            "sender": self.sender,
            "type": self.type,
            "content": dict(self.content),
            "unsigned": {"age": age_ms},
        }


@dataclass(slots=True)
class LyingHomeserver:
    """The room's events, in the order in which they were taken. *withholds* says what a user is not shown."""

    users: dict[str, str] = field(default_factory=dict)  # by access token
    events: list[Event] = field(default_factory=list)
    withholds: Callable[[str, Event], bool] = lambda _user, _event: False
    url: str = ""
    _taken: dict[tuple[str, str], str] = field(default_factory=dict)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def take(self, sender: str, type_: str, content: Mapping[str, Any], *, key: str, age_ms: int | None = None) -> str:
        """Append an event to the room, once for each *key* of a sender, and return its id."""
        with self._more:
            known = self._taken.get((sender, key))
            if known is not None:
                return known
            event_id = f"$event-{len(self.events) + 1}"
            self.events.append(Event(event_id, sender, type_, content, time.monotonic(), age_ms))
            self._taken[sender, key] = event_id
            self._more.notify_all()
            return event_id

    def repeat(self, event: Event, *, age_ms: int = 0) -> None:
        """Have an event come once more, as a new one of that age."""
        key = f"repeated-{event.event_id}-{len(self.events)}"
        self.take(event.sender, event.type, event.content, key=key, age_ms=age_ms)

    def said(self, type_: str, **fields: Any) -> list[Event]:
        """Return the events of a type with these fields."""
        found = [event for event in list(self.events) if event.type == type_]
        return [event for event in found if fields.items() <= event.content.items()]

    def since(self, user: str, position: int, *, wait_s: float) -> tuple[int, list[dict[str, Any]]]:
        """Return what a user is shown after a position, and the next one; wait while there is nothing."""
        until_s = time.monotonic() + wait_s
        with self._more:
            while True:
                shown = [one.shown() for one in self.events[position:] if not self.withholds(user, one)]
                if shown or time.monotonic() >= until_s:
                    return len(self.events), shown
                self._more.wait(max(0.01, until_s - time.monotonic()))


@contextmanager
def lying_homeserver() -> Iterator[LyingHomeserver]:
    """Serve one on loopback while the block lasts."""
    homeserver = LyingHomeserver()

    class Handler(_Handler):
        room = homeserver

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    homeserver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield homeserver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    room: LyingHomeserver

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address, user = urlsplit(self.path), self._user()
        path, query = unquote(address.path), {name: values[0] for name, values in parse_qs(address.query).items()}
        if user is None:
            self._answer({"errcode": "M_UNKNOWN_TOKEN"}, 401)
        elif path.endswith("/account/whoami"):
            self._answer({"user_id": user, "device_id": "CIS"})
        elif path.endswith("/joined_rooms"):
            self._answer({"joined_rooms": [ROOM_ID]})
        elif path.endswith("/state"):
            self._answer([])
        elif path.endswith("/sync"):
            self._answer(self._sync(user, query))
        elif path.endswith("/messages"):
            newest, oldest = (_position(query[name]) for name in ("from", "to"))
            shown = [one.shown() for one in self.room.events[oldest:newest] if not self.room.withholds(user, one)]
            self._answer({"chunk": shown[::-1]})
        else:
            self._answer({"errcode": "M_NOT_FOUND"}, 404)

    def do_PUT(self) -> None:
        user, body = self._user(), self.rfile.read(int(self.headers["Content-Length"]))
        *_, type_, key = (unquote(part) for part in urlsplit(self.path).path.split("/"))
        self._answer({"event_id": self.room.take(user or "", type_, json.loads(body), key=key)})

    def _sync(self, user: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        if "since" not in query:
            shown: list[dict[str, Any]] = []
            position = len(self.room.events)
        else:
            wait_s = min(POLL_S, int(query.get("timeout", 0)) / 1000)
            position, shown = self.room.since(user, _position(query["since"]), wait_s=wait_s)
        timeline = {"events": shown, "limited": False}
        return {"next_batch": f"s{position}_0", "rooms": {"join": {ROOM_ID: {"timeline": timeline}}}}

    def _user(self) -> str | None:
        return self.room.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _position(token: str) -> int:
    return int(token[1:].partition("_")[0])
