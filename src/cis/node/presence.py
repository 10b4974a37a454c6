"""Whether a node of this home runs, and where it listens; cheap enough to ask in every command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cis.node.home import Home
from cis.worker.lock import holder


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a running node says of itself in ``run/node.json``."""

    node_id: str
    url: str
    pid: int
    schema: int = 0  # 0: of a version that did not say


def node_lock_path(home: Home) -> Path:
    """Return the lock that a node holds while it runs."""
    return home.run / "node.lock"


def node_is_running(home: Home) -> bool:
    """Whether some process is this home's node now."""
    return holder(node_lock_path(home)) is not None


def announcement_path(home: Home) -> Path:
    """Return the file in which a running node says where it listens."""
    return home.run / "node.json"


def announced(home: Home) -> Announcement | None:
    """Return what the running node said of itself; None when none runs or none has said it yet."""
    if not node_is_running(home):
        return None
    try:
        told = json.loads(announcement_path(home).read_text(encoding="utf-8"))
        return Announcement(node_id=told["node_id"], url=told["url"], pid=told["pid"], schema=told.get("schema", 0))
    except (OSError, ValueError, KeyError, TypeError):
        return None
