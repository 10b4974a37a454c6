"""Makes the ``ThisNode`` of this node: the same for its API, its workers and its commands."""

from __future__ import annotations

from cis.engine.ports import SecretBook, SkillBook
from cis.engine.this_node import ThisNode
from cis.executors.platform import boot_id
from cis.node.clock import new_id, now_us, uptime_us
from cis.node.settings import Settings


def make_this_node(
    settings: Settings, *, skills: SkillBook, secrets: SecretBook | None = None, node_runs: bool = True
) -> ThisNode:
    """Return where submissions to this node happen, with the real clock and real ids.

    With no node running nobody could offer a DAG in the room: one that names no node is run here and now.
    """
    return ThisNode(
        node_id=settings.node_id,
        skills=skills,
        clock_us=now_us,
        new_id=new_id,
        uptime_us=uptime_us,
        max_queued=settings.max_queued,
        max_descendants=settings.max_descendants,
        max_recursion=settings.max_recursion,
        has_room=settings.has_room,
        offers=settings.has_room and node_runs,
        deliver_within_s=settings.deliver_within_s,
        lease_s=settings.room_lease_s,
        boot_id=boot_id(),
        scopes=settings.scopes,
        labels=settings.labels,
        secrets=secrets,
    )
