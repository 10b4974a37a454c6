"""The site of this node: the same for its API, its workers and its commands."""

from __future__ import annotations

from cis.engine.ports import SkillBook
from cis.engine.site import Site
from cis.node.clock import new_id, now_us
from cis.node.settings import Settings


def make_site(settings: Settings, *, skills: SkillBook) -> Site:
    """Return where submissions to this node happen, with the real clock and real ids."""
    return Site(
        node_id=settings.node_id,
        skills=skills,
        clock_us=now_us,
        new_id=new_id,
        max_queued=settings.max_queued,
    )
