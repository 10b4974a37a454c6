"""A run without a node: a supervisor in this very process, the same worker processes, until that run is over."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from cis.engine.control import cancel
from cis.engine.existing import existing_run
from cis.errors import IllegalStateError, StoreNewerError
from cis.node.clock import now_us
from cis.node.home import Home
from cis.node.settings import Settings
from cis.node.workers import make_supervisor
from cis.store.sqlite.store import open_sqlite
from cis.worker.bell import FifoBell, bell_path, ring


def run_embedded(home: Home, settings: Settings, *, run_id: str, on_change: Callable[[], None] = lambda: None) -> None:
    """Return when the run is final; *on_change* is called whenever a worker stored something.

    A KeyboardInterrupt cancels the run, waits for its tasks to be ended, and is raised again; a second one
    ends the workers as they are, with what others gave them.

    Raises:
        NotFoundError: no such run.
        StoreNewerError: a newer program has changed the schema; what ran has ended, and that one does the rest.
    """
    store = open_sqlite(home.db)
    bell = FifoBell(bell_path(home.run, f"embedded-{os.getpid()}"))
    supervisor = make_supervisor(home, settings, store=store, bell=bell, told=on_change)
    try:
        try:
            while not existing_run(store, run_id).status.final:
                store.check_current()
                supervisor.turn(at_most_s=0.5)
            supervisor.dismiss()
        except StoreNewerError:
            supervisor.dismiss()
            raise
        except KeyboardInterrupt:
            with suppress(IllegalStateError), store.transaction():  # it may have ended by itself just now
                run = cancel(store, run_id, now_us=now_us())
                ring(home.run, run.worker_id)
            while not existing_run(store, run_id).status.final:
                supervisor.turn(at_most_s=0.5)
            supervisor.dismiss()
            raise
    finally:
        supervisor.close(timeout_s=settings.grace_s * 2 + 5)
        bell.close()
        bell_path(home.run, f"embedded-{os.getpid()}").unlink(missing_ok=True)
        store.close()
