"""A run without a node: the command itself keeps a supervisor, the same as a node's, until its run is over.

It takes up its own run, what that starts, and what is handed in after it: commands that run at the same time share the
worker of a scope, since one process alone can be that. What stood in the queue before, when no other command runs, was
left by a node or a command that is gone, and stays for the next node. Where the run has to wait for another one all the
same, it says for which, and why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from cis.engine.accept.control import cancel
from cis.engine.lookup import look_up_run
from cis.errors import IllegalStateError, StoreNewerError
from cis.model.durations import format_duration
from cis.model.ids import counted
from cis.node.clock import now_us
from cis.node.workers import make_supervisor
from cis.store import open_store
from cis.store.records import QueueState
from cis.worker.bell import FifoBell, bell_path, ring, ring_watchers
from cis.worker.lock import holder, worker_lock_path

if TYPE_CHECKING:
    from pathlib import Path

    from cis.node.home import Home
    from cis.node.settings import Settings
    from cis.store.port import Store
    from cis.worker.supervisor import Supervisor

_NAME = "embedded-"
SAY_AFTER_S = 2.0
MOST_COUNTED = 1001
Say = Callable[[str], None]


@contextmanager
def standing_by(home: Home) -> Iterator[None]:
    """Be known to other commands as one that runs without a node, from before its run is stored until its end."""
    bell = FifoBell(_own_bell(home))
    try:
        yield
    finally:
        bell.close()
        _own_bell(home).unlink(missing_ok=True)


def run_embedded(home: Home, settings: Settings, *, run_id: str, say: Say | None = None) -> None:
    """Return when the run is final; who watches this home hears whenever a worker stored something.

    A KeyboardInterrupt cancels the run, waits for its tasks to be ended, and is raised again; a second one
    ends the workers as they are, with what others gave them.

    Raises:
        NotFoundError: no such run.
        StoreNewerError: a newer program has changed the schema; what ran has ended, and that one does the rest.
    """
    store = open_store(home.store)
    bell = FifoBell(_own_bell(home))
    first = _from_position(store, home, run_id)
    supervisor = make_supervisor(
        home, settings, store=store, bell=bell, told=partial(ring_watchers, home.run), from_position=first
    )
    left = store.queue.load(settings.node_id, at_most=MOST_COUNTED) - 1 if first else 0
    if left > 0 and say is not None:
        say(f"left here by an earlier node or command: {counted(left, 'run')}, for the next node ('cis node start')")
    others = _Others(store, home, settings, run_id=run_id, say=say)
    try:
        try:
            while not look_up_run(store.runs, run_id).status.final:
                store.upkeep.check_current()
                supervisor.turn(at_most_s=0.5)
                others.tell_why_it_waits(supervisor)
            supervisor.dismiss(unless=partial(others.tell_who_stays, supervisor))
        except StoreNewerError:
            supervisor.dismiss()
            raise
        except KeyboardInterrupt:
            with suppress(IllegalStateError), store.transaction():  # it may have ended by itself just now
                run = cancel(store, run_id, now_us=now_us())
                ring(home.run, run.worker_id)
                if say is not None and not run.status.final:
                    grace = format_duration(settings.grace_s)
                    say(f"cancelled: its tasks have {grace} to end, and are killed then; Ctrl-C again ends them now")
            while not look_up_run(store.runs, run_id).status.final:
                supervisor.turn(at_most_s=0.5)
            supervisor.dismiss()
            raise
    finally:
        supervisor.close(timeout_s=settings.grace_s * 2 + 5)
        bell.close()
        _own_bell(home).unlink(missing_ok=True)
        store.close()


def _own_bell(home: Home) -> Path:
    return bell_path(home.run, f"{_NAME}{os.getpid()}")


def _from_position(store: Store, home: Home, run_id: str) -> int:
    """Return from where on the queue is taken up: from the run on, unless others are at work or it waits for others."""
    item = store.queue.get(run_id)
    if item is None or item.status is QueueState.WAITING or _others_run(home):
        return 0
    return store.queue.position(run_id)


def _others_run(home: Home) -> bool:
    """Whether another command runs here without a node; what is left of those that were killed is removed."""
    own, found = _own_bell(home), False
    for path in home.run.glob(f"{_NAME}*.wake"):
        if path == own:
            continue
        if ring(home.run, path.name.removesuffix(".wake")):
            found = True
        else:
            with suppress(OSError):
                path.unlink()
    return found


class _Others:
    """Says once for whose run this one waits before it starts, and once for whose the command stays after its end."""

    def __init__(self, store: Store, home: Home, settings: Settings, *, run_id: str, say: Say | None) -> None:
        self._store = store
        self._home = home
        self._node_id = settings.node_id
        self._run_id = run_id
        self._say = say or str
        self._began_s = time.monotonic()
        self._over_s: float | None = None
        self._told = self._told_end = say is None

    def tell_why_it_waits(self, supervisor: Supervisor) -> None:
        """Say, once it has waited for a moment, what the run waits for that belongs to others."""
        if self._told or time.monotonic() < self._began_s + SAY_AFTER_S:
            return
        self._told = True
        item = self._store.queue.get(self._run_id)
        if item is None or item.status not in (QueueState.WAITING, QueueState.QUEUED):
            return
        lock = holder(worker_lock_path(self._home.run, item.worker_id))
        ours = item.worker_id in {child.worker_id for child in supervisor.children}
        whose = self._run_at(item.worker_id)
        if item.status is QueueState.WAITING:
            self._say(f"waits until fewer runs of its scope are at work (max_runs){whose and f': {whose} is'}")
        elif lock is not None and not ours:
            self._say(f"waits for {item.worker_id} (process {lock}), which is at work for {whose or 'another run'}")
        elif ours and whose:
            self._say(f"waits for a slot of {item.worker_id}, which is at work for {whose}, too")

    def tell_who_stays(self, supervisor: Supervisor) -> bool:
        """Say, once that takes a moment, for whose tasks the command stays although its own run is over."""
        now_s = time.monotonic()
        self._over_s = now_s if self._over_s is None else self._over_s
        if not self._told_end and now_s >= self._over_s + SAY_AFTER_S:
            self._told_end = True
            whose = [text for text in (self._run_at(child.worker_id) for child in supervisor.children) if text]
            if whose:
                self._say(
                    f"the run is over; this command stays until the tasks of {', '.join(whose)} have ended, which its worker"
                    " has taken up meanwhile (Ctrl-C twice ends them; they are tried again)"
                )
        return False

    def _run_at(self, worker_id: str) -> str:
        """Return the run that a worker is at work for, if it is not this one."""
        worker = self._store.workers.get(self._node_id, worker_id)
        run_id = None if worker is None else worker.current_run
        run = None if run_id in (None, self._run_id) else self._store.runs.get(str(run_id))
        return f"run {run.run_id} of {run.dag_id}" if run is not None else ""
