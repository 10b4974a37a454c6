"""Wires supervisors: a node keeps one, and so does a command that runs a DAG without a node (``cis.node.embedded``).

Both start the same worker processes of this home.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from cis.engine.accept.admission import let_in
from cis.engine.logfiles import WORKERS
from cis.executors.attempt_folder import AttemptFolders
from cis.executors.orphans import Inherited, kill_orphans
from cis.executors.platform import kill_process
from cis.model.scope import Scope
from cis.node.clock import now
from cis.node.home import Home
from cis.node.settings import Settings
from cis.node.this_node import make_this_node
from cis.skills.registry import InstalledSkills
from cis.store.port import Store
from cis.worker.bell import FifoBell
from cis.worker.supervisor import SpawnWorker, Supervisor, SupervisorParts, WorkerProcessHandle

MAX_WORKER_LOG_BYTES = 10 << 20


def make_supervisor(
    home: Home,
    settings: Settings,
    *,
    store: Store,
    bell: FifoBell,
    told: Callable[[], None],
    told_work: Callable[[], None] = lambda: None,
    holds: Callable[[str], bool] = lambda _: False,
    from_position: int = 0,
) -> Supervisor:
    """Return the supervisor of this home's workers.

    It leaves alone what stands before *from_position* in the queue, and starts no worker that *holds* says has to wait.
    """
    this_node = make_this_node(settings, skills=InstalledSkills())
    return Supervisor(
        SupervisorParts(
            store=store,
            node_id=settings.node_id,
            run_dir=home.run,
            bell=bell,
            spawn=worker_spawner(home, settings, from_position=from_position),
            kill_orphans=partial(kill_orphans, home=home.root, attempts=home.attempts),
            kill_process=kill_process,
            clock=now,
            retire_signal=signal.SIGUSR1,
            dismiss_signal=signal.SIGUSR2,
            max_workers=settings.max_workers,
            lease_s=settings.lease_s,
            told=told,
            told_work=told_work,
            holds=holds,
            from_position=from_position,
            reap=Inherited().reap,
            lasting=AttemptFolders(home.attempts),
            let_in=lambda store, worker_id: let_in(store.queue, worker_id, this_node=this_node),
        )
    )


def worker_spawner(home: Home, settings: Settings, *, from_position: int = 0) -> SpawnWorker:
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
        if from_position:
            arguments += ["--from-position", str(from_position)]
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
