"""The case ``cluster``: from a POST on one node to the first start on another, as ``cluster_latency`` measures it."""

from __future__ import annotations

from tests.bench.cluster_latency import measure_push, measure_room
from tests.bench.figures import Figure, Plan, Result

PUSH_MS = 60.0
ROOM_MS = 250.0


def cluster(plan: Plan) -> Result:
    """Measure 100 pushes, 100 ways through a room, and in turn with these the homeserver alone."""
    push_folder, room_folder = plan.folder / "push", plan.folder / "room"
    push_folder.mkdir()
    room_folder.mkdir()
    count = plan.size(20, 100)
    push = measure_push(push_folder, count)
    room, alone = measure_room(room_folder, count)
    return Result(
        [
            _figure("by push, p50", push, PUSH_MS),
            _figure("through a room, p50", room, ROOM_MS),
            _figure("the homeserver alone, p50", alone),
        ]
    )


def _figure(what: str, times: list[float], at_most: float | None = None) -> Figure:
    return Figure(case="cluster", what=what, unit="ms", values=tuple(times), at_most=at_most)
