"""Tasks that were made into many, as one line each: how many of the instances are over, and those that failed or run by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

FOLDED = "folded"  # beside the fields of a task: how its instances stand
_SHOWN = ("running", "failed")


def folded(tasks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return tasks as they are shown: each that was made into many with how its instances stand, then those to look at."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for task in tasks:
        if task["instance_of"] is not None:
            parts.setdefault(task["instance_of"], []).append(task)
    if not parts:
        return list(tasks)
    shown: list[Mapping[str, Any]] = []
    for task in tasks:
        if task["instance_of"] is not None:
            continue
        mine = parts.get(task["id"])
        shown.append(task if mine is None else {**task, FOLDED: _standing(mine)})
        shown += [one for one in mine or () if one["status"] in _SHOWN]
    return shown


def _standing(parts: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(part["status"] for part in parts)
    over = len(parts) - counts["pending"] - counts["running"]
    rest = [f"{counts[status]:,} {status}" for status in ("failed", "cancelled", "skipped") if counts[status]]
    return ", ".join([f"{over:,}/{len(parts):,}", *rest])
