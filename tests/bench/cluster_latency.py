"""How long it takes from a POST on one node to the first task's start on another: by push, and through a room.

    python -m tests.bench.cluster_latency [--count 100] [--push-bar-ms 60] [--room-bar-ms 250] [--json]

Two nodes on this machine, warm; beside them, in the same run and taking turns, what the homeserver itself needs from
one client's send to another client's receipt. Times are wall times of one machine. Ends with status 1 if a median is
over its bar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.worlds.cluster import ClusterNode, at_once, befriend, ended, make_nodes, running
from tests.worlds.homeserver import running_homeserver
from tests.worlds.rooms import Person, make_room_nodes, start_in_room
from tests.worlds.waiting import wait_for

TASK = {"id": "a", "command": "true"}


def started_ms(sender: ClusterNode, executor: ClusterNode) -> float:
    """Hand a DAG for *executor* to *sender*; return milliseconds from before the POST to the task's start."""
    document = {"dag_id": "latency", "target_node": executor.node_id, "tasks": [TASK]}
    begun_us = time.time_ns() // 1000
    run_id = str(sender.api.execute(document).body["run_id"])
    sql = "SELECT started_at_us FROM task_executions WHERE run_id = ?"
    found = wait_for(lambda: executor.sandbox.rows(sql, (run_id,)), timeout_s=30, what="the task's start")
    ended(sender, run_id)
    return float((found[0][0] - begun_us) / 1000)


class Echo:
    """A plain client that waits in a room, as a node does, and tells when an event of its own kind came."""

    def __init__(self, person: Person, room_id: str) -> None:
        self._person = person
        self._came: dict[str, float] = {}
        self._over = threading.Event()
        wanted = {"room": {"rooms": [room_id], "timeline": {"types": ["io.cis.bench"]}, "state": {"types": []}}}
        self._filter = json.dumps(wanted)
        self._since = person.call("GET", "/_matrix/client/v3/sync", filter=self._filter, timeout=0).json()["next_batch"]
        self._thread = threading.Thread(target=self._listen, args=(room_id,), daemon=True)
        self._thread.start()

    def ms(self, sender: Person, room_id: str) -> float:
        """Send an event and return milliseconds until this client had it."""
        begun_s = time.perf_counter()
        event_id = str(sender.send(room_id, "io.cis.bench", {}).raise_for_status().json()["event_id"])
        came_s = wait_for(lambda: self._came.get(event_id), timeout_s=30, what="the event") or begun_s
        return (came_s - begun_s) * 1000

    def close(self) -> None:
        """Stop waiting."""
        self._over.set()
        self._thread.join(10)

    def _listen(self, room_id: str) -> None:
        while not self._over.is_set():
            params = {"filter": self._filter, "since": self._since, "timeout": 2000}
            said = self._person.call("GET", "/_matrix/client/v3/sync", **params).json()
            self._since = said["next_batch"]
            room = said.get("rooms", {}).get("join", {}).get(room_id, {})
            for event in room.get("timeline", {}).get("events", []):
                self._came[event["event_id"]] = time.perf_counter()


def measure_push(folder: Path, count: int) -> list[float]:
    """Return the times of *count* pushes, after some that do not count."""
    nodes = make_nodes(folder, 2)
    befriend(*nodes)
    with running(*nodes):
        for _ in range(5):
            started_ms(nodes[1], nodes[0])
        return [started_ms(nodes[1], nodes[0]) for _ in range(count)]


def measure_room(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Return the times through the room and those of the homeserver alone, taken in turn."""
    with running_homeserver(folder / "homeserver") as homeserver:
        cluster = make_room_nodes(folder, homeserver, 2)
        watcher, speaker = cluster.newcomer("watcher"), cluster.newcomer("speaker")
        start_in_room(cluster)
        echo = Echo(watcher, cluster.room_id)
        try:
            one, two = cluster.nodes
            for _ in range(5):
                started_ms(two, one)
                echo.ms(speaker, cluster.room_id)
            pairs = [(started_ms(two, one), echo.ms(speaker, cluster.room_id)) for _ in range(count)]
        finally:
            echo.close()
            at_once(node.stop for node in cluster.nodes)
    return [room for room, _ in pairs], [alone for _, alone in pairs]


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile, minimum and maximum, in milliseconds."""
    return {
        "p50": statistics.median(times),
        "p95": statistics.quantiles(times, n=20)[-1],
        "min": min(times),
        "max": max(times),
    }


def main() -> int:
    """Measure, print, and compare with the bars."""
    parser = argparse.ArgumentParser(description="from a POST on one node to a task's start on another")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--push-bar-ms", type=float, default=60.0)
    parser.add_argument("--room-bar-ms", type=float, default=250.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cis-bench-") as folder:
        push_folder, room_folder = Path(folder) / "push", Path(folder) / "room"
        push_folder.mkdir()
        room_folder.mkdir()
        push = summary(measure_push(push_folder, options.count))
        through_room, alone = (summary(times) for times in measure_room(room_folder, options.count))
    ratio = through_room["p50"] / alone["p50"]
    result: dict[str, Any] = {"push": push, "room": through_room, "homeserver": alone, "room_to_homeserver": ratio}
    if options.json:
        print(json.dumps(result))
    else:
        print(f"from POST to the task's start, {options.count} times, in ms")
        for name, one in (("push", push), ("room", through_room), ("homeserver alone", alone)):
            print(f"  {name:17}" + "   ".join(f"{key} {value:6.1f}" for key, value in one.items()))
        print(f"room: {ratio:.1f} times the homeserver's own send to receipt")
    return 0 if push["p50"] <= options.push_bar_ms and through_room["p50"] <= options.room_bar_ms else 1


if __name__ == "__main__":
    sys.exit(main())
