"""Wires supervisors: one that a node keeps, and one that runs without a node until a single run is over.

Both start the same worker processes of this home.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from cis.engine.accept.admission import let_in
from cis.engine.accept.control import cancel
from cis.engine.logfiles import WORKERS
from cis.engine.lookup import look_up_run
from cis.errors import IllegalStateError, StoreNewerError
from cis.executors.attempt_folder import AttemptFolders
from cis.executors.orphans import Inherited, kill_orphans
from cis.executors.platform import kill_process
from cis.model.scope import Scope
from cis.node.clock import now, now_us
from cis.node.home import Home
from cis.node.settings import Settings
from cis.node.this_node import make_this_node
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.port import Store
from cis.worker.bell import FifoBell, bell_path, ring, ring_watchers
from cis.worker.supervisor import SpawnWorker, Supervisor, SupervisorParts, WorkerProcessHandle

MAX_WORKER_LOG_BYTES = 10 << 20


def make_supervisor(
    home: Home, settings: Settings, *, store: Store, bell: FifoBell, told: Callable[[], None]
) -> Supervisor:
    """Return the supervisor of this home's workers."""
    this_node = make_this_node(settings, skills=InstalledSkills())
    return Supervisor(
        SupervisorParts(
            store=store,
            node_id=settings.node_id,
            run_dir=home.run,
            bell=bell,
            spawn=worker_spawner(home, settings),
            kill_orphans=partial(kill_orphans, home=home.root, attempts=home.attempts),
            kill_process=kill_process,
            clock=now,
            retire_signal=signal.SIGUSR1,
            dismiss_signal=signal.SIGUSR2,
            max_workers=settings.max_workers,
            lease_s=settings.lease_s,
            told=told,
            reap=Inherited().reap,
            lasting=AttemptFolders(home.attempts),
            let_in=lambda store, worker_id: let_in(store.queue, worker_id, this_node=this_node),
        )
    )


def worker_spawner(home: Home, settings: Settings) -> SpawnWorker:
    """Return what starts a worker as a process of its own: ``cis worker run``, in a session of its own.

    Its tasks share that session (``cis.executors.launching``), to which no terminal belongs. Its log is
    ``logs/workers/<worker_id>.log``, started anew when it has passed 10 MiB. Settings that a flag or the environment
    changed reach it through its environment.
    """
    folder = home.logs / WORKERS
    environment = {**os.environ, **settings.to_environ(), "CIS_HOME": str(home.root)}

    def spawn(worker_id: str, scope: Scope, report_fd: int) -> WorkerProcessHandle:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{worker_id}.log"
        fresh = path.exists() and path.stat().st_size > MAX_WORKER_LOG_BYTES
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_TRUNC if fresh else 0)
        descriptor = os.open(path, flags, 0o600)
        arguments = ["worker", "run", "--id", worker_id, "--scope", str(scope), "--report-fd", str(report_fd)]
        arguments += ["--idle-timeout", str(settings.idle_timeout_s), "--parent-pid", str(os.getpid())]
        try:
            return subprocess.Popen(  # the supervisor reaps it
                [sys.executable, "-P", "-m", "cis", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=environment,
                pass_fds=(report_fd,),
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    return spawn


def run_embedded(home: Home, settings: Settings, *, run_id: str) -> None:
    """Return when the run is final; who watches this home hears whenever a worker stored something.

    A KeyboardInterrupt cancels the run, waits for its tasks to be ended, and is raised again; a second one
    ends the workers as they are, with what others gave them.

    Raises:
        NotFoundError: no such run.
        StoreNewerError: a newer program has changed the schema; what ran has ended, and that one does the rest.
    """
    store = open_store(home.db)
    bell = FifoBell(bell_path(home.run, f"embedded-{os.getpid()}"))
    supervisor = make_supervisor(home, settings, store=store, bell=bell, told=partial(ring_watchers, home.run))
    try:
        try:
            while not look_up_run(store.runs, run_id).status.final:
                store.upkeep.check_current()
                supervisor.turn(at_most_s=0.5)
            supervisor.dismiss()
        except StoreNewerError:
            supervisor.dismiss()
            raise
        except KeyboardInterrupt:
            with suppress(IllegalStateError), store.transaction():  # it may have ended by itself just now
                run = cancel(store, run_id, now_us=now_us())
                ring(home.run, run.worker_id)
            while not look_up_run(store.runs, run_id).status.final:
                supervisor.turn(at_most_s=0.5)
            supervisor.dismiss()
            raise
    finally:
        supervisor.close(timeout_s=settings.grace_s * 2 + 5)
        bell.close()
        bell_path(home.run, f"embedded-{os.getpid()}").unlink(missing_ok=True)
        store.close()
