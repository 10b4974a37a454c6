"""Real nodes in a real room on a real homeserver, and a way to say anything in it as anybody."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from cis.node.identity import set_text
from tests.worlds.cluster import ClusterNode, at_once, make_nodes
from tests.worlds.homeserver import Homeserver
from tests.worlds.waiting import wait_for


@dataclass(slots=True)
class Person:
    """A Matrix user and its session."""

    homeserver: Homeserver
    user_id: str
    token: str

    def call(self, method: str, path: str, *, body: Mapping[str, Any] | None = None, **params: Any) -> httpx.Response:
        """Send a request as this user, and return the answer, whatever its status."""
        with httpx.Client(base_url=self.homeserver.url, trust_env=False, timeout=30) as client:
            headers = {"Authorization": f"Bearer {self.token}"}
            return client.request(method, path, json=body, params=params, headers=headers)

    def send(self, room_id: str, type_: str, content: Mapping[str, Any], *, txn: str | None = None) -> httpx.Response:
        """Send an event into a room."""
        path = f"{_room(room_id)}/send/{quote(type_, safe='')}/{txn or uuid.uuid4().hex}"
        return self.call("PUT", path, body=content)

    def say(self, room_id: str, text: str) -> str:
        """Say something in a room, and return the event's id."""
        answer = self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": text})
        return str(answer.raise_for_status().json()["event_id"])

    def events(self, room_id: str, *types: str) -> list[dict[str, Any]]:
        """Return all events of these types that a room has, oldest first."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"dir": "f", "limit": 100, "filter": json.dumps({"types": types})}
        while True:
            page = self.call("GET", f"{_room(room_id)}/messages", **params).raise_for_status().json()
            found += page["chunk"]
            if not page.get("end"):
                return found
            params["from"] = page["end"]


@dataclass(slots=True)
class RoomCluster:
    """Nodes that trust each other and meet in a room."""

    homeserver: Homeserver
    nodes: list[ClusterNode]
    people: dict[str, Person] = field(default_factory=dict)
    room_id: str = ""

    def person(self, node: ClusterNode) -> Person:
        """Return a node's own Matrix user."""
        return self.people[node.node_id]

    def events(self, *types: str) -> list[dict[str, Any]]:
        """Return all events of these types in the room, oldest first."""
        return self.person(self.nodes[0]).events(self.room_id, *types)

    def newcomer(self, name: str, *, level: int | None = None) -> Person:
        """Bring a new user into the room, with a power level if one is given."""
        person = _register(self.homeserver, f"{name}-{uuid.uuid4().hex[:8]}")
        owner = self.person(self.nodes[0])
        owner.call("POST", f"{_room(self.room_id)}/invite", body={"user_id": person.user_id}).raise_for_status()
        person.call("POST", f"{_room(self.room_id)}/join", body={}).raise_for_status()
        if level is not None:
            path = f"{_room(self.room_id)}/state/m.room.power_levels/"
            levels = owner.call("GET", path).raise_for_status().json()
            levels["users"][person.user_id] = level
            owner.call("PUT", path, body=levels).raise_for_status()
        return person

    def synced(self) -> None:
        """Wait until every running node has read all that is in the room now."""
        marks = [self.person(self.nodes[0]).say(self.room_id, f"!dag mark-{uuid.uuid4().hex}")]
        for node in self.nodes:
            if node.process is not None and node is not self.nodes[0]:
                wait_for(partial(_has_event, node, marks[0]), timeout_s=30, what=f"{node.node_id} to read the room")


def make_room_nodes(
    folder: Path,
    homeserver: Homeserver,
    count: int,
    *,
    addresses: bool = False,
    lines: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, str]] | None = None,
    sources: Mapping[str, Path] | None = None,
    stores: Sequence[str] = (),
) -> RoomCluster:
    """Return nodes that trust each other, in a room that node-1 made with ``cis room setup``; none runs yet.

    They reach each other by the room alone unless *addresses*. *lines* are added to each ``cis.toml``, and
    *settings* are set in that of one node: node id, then ``section.key``. *sources* and *stores* are as ``make_nodes`` takes them.
    """
    cluster = RoomCluster(homeserver, make_nodes(folder, count, sources=sources, stores=stores))
    tag = uuid.uuid4().hex[:8]
    for node in cluster.nodes:
        person = cluster.people[node.node_id] = _register(homeserver, f"{node.node_id}-{tag}")
        _configure(node, person, lines, (settings or {}).get(node.node_id, {}))
    at_once(partial(_trust_all, cluster, node, addresses=addresses) for node in cluster.nodes)
    first, *others = cluster.nodes
    report = first.sandbox.json("room", "setup")
    assert report["usable"], report
    cluster.room_id = report["room_id"]

    def join(node: ClusterNode) -> None:
        set_text(node.sandbox.home / "cis.toml", section="matrix", key="room_id", value=cluster.room_id)
        found = node.sandbox.json("room", "setup")
        assert found["usable"], found

    at_once(partial(join, node) for node in others)
    return cluster


def start_in_room(cluster: RoomCluster, *nodes: ClusterNode) -> None:
    """Start nodes, and return once each has entered the room."""
    chosen = nodes or tuple(cluster.nodes)
    at_once(node.start for node in chosen)
    for node in chosen:
        wait_for(partial(has_entered, node), timeout_s=30, what=f"{node.node_id} to enter the room")


def has_entered(node: ClusterNode) -> bool:
    """Whether a node has read its room at all."""
    return bool(node.sandbox.rows("SELECT 1 FROM room_cursors"))


def _has_event(node: ClusterNode, event_id: str) -> bool:
    return bool(node.sandbox.rows("SELECT 1 FROM room_events WHERE event_id = ? AND state != 'new'", (event_id,)))


def _register(homeserver: Homeserver, name: str) -> Person:
    user_id, token = homeserver.register(name)
    return Person(homeserver, user_id, token)


def _configure(node: ClusterNode, person: Person, lines: Sequence[str], settings: Mapping[str, str]) -> None:
    toml = node.sandbox.home / "cis.toml"
    for key, value in (("homeserver", person.homeserver.url), ("user_id", person.user_id)):
        set_text(toml, section="matrix", key=key, value=value)
    for name, value in settings.items():
        section, _, key = name.partition(".")
        text = toml.read_text()
        head = f"[{section}]\n"
        added = f"{head}{key} = {value}\n"
        toml.write_text(text.replace(head, added, 1) if f"\n{head}" in f"\n{text}" else f"{text}\n{added}")
    if lines:
        toml.write_text(toml.read_text() + "\n" + "\n".join(lines) + "\n")
    token = node.sandbox.home / "matrix.token"
    token.write_text(person.token)
    token.chmod(0o600)


def _trust_all(cluster: RoomCluster, node: ClusterNode, *, addresses: bool) -> None:
    for other in cluster.nodes:
        if other is node:
            continue
        words = ["--matrix-user", cluster.person(other).user_id, *(["--url", other.url] if addresses else [])]
        node.sandbox.json("node", "trust", other.node_id, other.public_key, *words)


def _room(room_id: str) -> str:
    return f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}"
