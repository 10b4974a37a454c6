"""Who executes a run, and whether anybody hears of it: what ``status``, ``cancel`` and whoever waits say of that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cis.cli.context import Context, say
from cis.cli.output import local_time
from cis.model.durations import format_duration
from cis.model.states import RunState
from cis.node.home import node_is_running

if TYPE_CHECKING:
    from cis.store.records import RunRecord

UNHEARD_S = 45.0  # a peer is asked every 30 s
LOOK_EVERY_S = 2.0


def heard(run: Mapping[str, Any], *, node_runs: bool, steady: bool = False) -> str:
    """Return on which other node an unfinished run is, and since when that one was not heard; else an empty text.

    *steady*: without what changes from second to second.
    """
    if run["delivery"] == "local" or RunState(run["status"]).final or not run["owner_node"]:
        return ""
    on, contact = f"on {run['owner_node']}", run["last_contact"]
    if not node_runs:
        last = f" (the last was at {local_time(contact)})" if contact else ""
        return f"{on}; no node runs here to hear of it{last}; 'cis node start'"
    if contact is None:
        return f"{on}, not heard yet"
    ago_s = (datetime.now(UTC) - datetime.fromisoformat(contact)).total_seconds()
    if ago_s < UNHEARD_S:
        return on if steady else f"{on}, heard {format_duration(max(0.0, ago_s))} ago"
    silent = f"since {local_time(contact)}" if steady else f"for {format_duration(ago_s)}"
    return f"{on}, not heard {silent}: it may be at work or gone; this is the last that it said"


class RunnerWatch:
    """Says when neither a node nor a worker is there any more that would go on with a run, and when one is again."""

    def __init__(self, context: Context, run: RunRecord) -> None:
        self._context = context
        self._run = run
        self._due_s = time.monotonic() + LOOK_EVERY_S
        self._missed = 0
        self._told = False

    def look(self) -> None:
        """See whether that is so, now and then; it is not told before the second look finds nobody."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_EVERY_S
        self._missed = 0 if self._is_minded() else self._missed + 1
        if not self._missed and self._told:
            self._told = False
            say("it is taken up again")
        elif self._missed > 1 and not self._told:
            self._told = True
            named = f"{self._run.dag_id} --run {self._run.run_id}"
            say(
                f"nothing goes on with run {self._run.run_id} at the moment: no node runs here, and its worker is gone. The"
                " run is stored, with all that has ended; it goes on when a node runs again ('cis node start'), and is"
                f" waited for (Ctrl-C ends the waiting alone; 'cis dag cancel {named}' ends the run)"
            )

    def _is_minded(self) -> bool:
        from cis.worker.lock import holder, worker_lock_path  # noqa: PLC0415 - a list looks at no lock

        lock = worker_lock_path(self._context.home.run, self._run.worker_id)
        return node_is_running(self._context.home) or holder(lock) is not None
