"""What a turn of a worker's loop has decided and what is to be done once its transaction has committed: a value.

The loop does it then (``WorkerLoop._apply``). Of a transaction that failed, the value is dropped, and nothing of it was
done; its starts alone are kept apart (``Holdings.keep_unstarted``), since a commit that is reported as failed may be
there after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cis.engine.run.plan import RunPlan
from cis.store.records import AttemptRecord

NEVER = float("inf")
NOTHING_SEEN = -1
_NONE: frozenset[str] = frozenset()


class Start(NamedTuple):
    """An attempt that is to be spawned; one stored ahead waits again if it has not begun by then (monotonic)."""

    plan: RunPlan
    attempt: AttemptRecord
    begins_by_s: float = NEVER


class Effects(NamedTuple):
    """What follows from a turn that is stored.

    ``alone`` is what runs apart from all others from now on, and until when (monotonic).
    """

    starts: Sequence[Start] = ()
    ahead: Sequence[Start] = ()  # for slots that are not free yet
    seen: int = NOTHING_SEEN  # ``Store.others_writes`` up to which every run that is held has been looked at
    alone: tuple[AttemptRecord, float] | None = None
    cancelled: frozenset[str] = _NONE  # runs whose processes are to be ended
    stopped: frozenset[tuple[str, int]] = frozenset()  # tasks, by run and number, whose processes are to be ended
    suspended: frozenset[str] = _NONE  # runs whose lease is over: their processes are to be ended as well
    ended: frozenset[str] = _NONE  # runs to be let go of
    rings: frozenset[str] = _NONE  # workers to be woken


NOTHING = Effects()
