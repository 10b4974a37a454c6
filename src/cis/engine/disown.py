"""What the copy of a home does with the queue that came along: nothing of it is this node's to do."""

from __future__ import annotations

from cis.engine.notices import run_event
from cis.model.states import RunState
from cis.store.port import Store
from cis.store.records import RunFilter

AT_ONCE = 200
_UNFINISHED = (RunState.PENDING, RunState.RUNNING, RunState.PAUSED)


def disown(store: Store, *, reason: str, now_us: int) -> int:
    """Close every run that is not over, without a word to anybody, and forget what waits to be sent; return how many.

    Runs, tasks and attempts become ``cancelled``, ``cancelled`` and ``lost``; a few hundred runs in each transaction.
    """
    closed = 0
    for status in _UNFINISHED:
        while runs := store.runs(RunFilter(status=status), limit=AT_ONCE).items:
            with store.transaction():
                for run in runs:
                    store.set_aside(run.run_id, error=reason, now_us=now_us, status=RunState.CANCELLED)
                    store.append_events(
                        [run_event(run._replace(status=RunState.CANCELLED, error=reason), at_us=now_us)]
                    )
            closed += len(runs)
    with store.transaction():
        store.forget_queue()
    return closed
