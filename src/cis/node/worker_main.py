"""Wires a worker process: store, executor, skills, loop."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from functools import partial

from cis.engine.logfiles import LogFiles
from cis.engine.run.attempts import AttemptMaker, base_environment
from cis.engine.run.loop import WorkerLoop
from cis.engine.run.parts import LoopLimits, WorkerPorts
from cis.engine.this_node import Incarnation
from cis.errors import UsageError
from cis.executors.attempt_folder import AttemptFolders
from cis.executors.launching import let_tasks_have_default_signals
from cis.executors.linux.timeslice import take_short_turns
from cis.executors.local import LocalExecutor
from cis.executors.orphans import kill_orphans
from cis.executors.platform import ParentWatch, process_started
from cis.model.dag import DagSpec, Json
from cis.model.scope import Scope
from cis.node.clock import WatchedClock, now_us
from cis.node.home import Home
from cis.node.residence import take_up
from cis.node.settings import Settings
from cis.node.tables import TomlSecrets
from cis.node.this_node import make_this_node
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.port import Store
from cis.store.records import WorkerRecord, WorkerState
from cis.worker import bell as bells
from cis.worker.lock import SignOfLife, acquire, worker_lock_path
from cis.worker.process import Reporter, Tenure, WorkerProcess
from cis.worker.rescuer import end_orphans, end_unwanted
from cis.worker.task_places import FILE, MachinePlaces

log = logging.getLogger(__name__)


def run_worker(
    home: Home,
    settings: Settings,
    *,
    worker_id: str,
    scope: Scope,
    report_fd: int | None = None,
    parent_pid: int | None = None,
    idle_timeout_s: float | None = None,
    from_position: int = 0,
) -> int:
    """Be the worker of *scope* until told to stop; return the exit status.

    ``report_fd`` is this end of a supervisor's pipe and ``parent_pid`` its process, if there is one; without
    ``idle_timeout_s`` an idle worker stays. What stands before ``from_position`` in the queue is left to others, also
    what an earlier worker of the scope held.

    Raises:
        UsageError: *worker_id* is not the name of this scope's worker.
        AlreadyRunningError: another process is this worker.
    """
    if worker_id != scope.worker_id:
        raise UsageError(f"the worker of scope {scope} is {scope.worker_id}, not {worker_id}")
    parent = ParentWatch(parent_pid)
    rules, tasks_at_once = settings.rules_of(scope), settings.tasks_at_once
    if rules.slots is not None:
        settings = settings._replace(slots=rules.slots)
    take_short_turns()
    let_tasks_have_default_signals()
    home.ensure()
    started = process_started(os.getpid())
    lock = acquire(worker_lock_path(home.run, worker_id), what=worker_id, started=started)
    store = open_store(home.store, again=parent_pid is not None)
    # A worker that waits for the lock can neither see its lease run out nor end its tasks, so it looks up in between.
    alive = SignOfLife(lock)
    store.wait_at_most(max(1.0, settings.lease_s / 3), meanwhile=alive)
    try:
        take_up(store, home, settings)
        bell = bells.FifoBell(bells.bell_path(home.run, worker_id))
        kill = partial(kill_orphans, home=home.root, attempts=home.attempts)
        end_orphans(store, worker_id, kill=kill)
        end_unwanted(store, AttemptFolders(home.attempts), kill=kill)
        worker = _take_office(store, settings, worker_id=worker_id, scope=scope, hands_back=from_position > 0)
        reporter = Reporter(report_fd)
        workdir = home.work / worker_id
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        skills, secrets = InstalledSkills(), TomlSecrets(home.toml, os.environ)
        logfiles = LogFiles(home.logs)
        executor = LocalExecutor(
            max_log_bytes=settings.max_log_bytes,
            nice=settings.nice,
            alone=True,
            grace_s=settings.grace_s,
            home=home.root,
            attempts=home.attempts,
            wake_up=bell,
        )

        places, clock = MachinePlaces(home.run / FILE, most=tasks_at_once), WatchedClock()

        def wake(other: str) -> None:
            reporter.say(Reporter.ENQUEUED)
            bells.ring(home.run, other)

        parts = WorkerPorts(
            store=store,
            executor=executor,
            maker=AttemptMaker(
                skills=skills,
                logfiles=logfiles,
                base_env=base_environment(os.environ, pass_env=settings.pass_env) | {"CIS_HOME": str(home.root)},
                node_id=settings.node_id,
                worker_id=worker_id,
                workdir=workdir,
                secrets=secrets,
                scope_env=rules.env,
            ),
            this_node=make_this_node(settings, skills=skills, secrets=secrets),
            bell=bell,
            ring=wake,
            tell=partial(reporter.say, Reporter.STORED),
            clock=clock,
            jitter=random.random,
            parse=_parse,
            alive=alive,
            places=places,
        )
        limits = LoopLimits(
            slots=settings.slots, grace_s=settings.grace_s, lease_s=settings.lease_s, from_position=from_position
        )
        loop = WorkerLoop(parts, limits, Incarnation(settings.node_id, worker_id, worker.epoch))
        tenure = Tenure(
            store=store,
            worker=worker,
            bell=bell,
            parent=parent,
            reporter=reporter,
            clock=clock,
            idle_timeout_s=idle_timeout_s,
            grace_s=settings.grace_s,
            supervised=report_fd is not None,
        )
        status = WorkerProcess(loop, tenure).run()
        executor.close()
        places.close()
        return status
    finally:
        store.close()
        lock.release()


def _take_office(store: Store, settings: Settings, *, worker_id: str, scope: Scope, hands_back: bool) -> WorkerRecord:
    at_us = now_us()
    with store.transaction():
        if hands_back:
            store.queue.hand_over(settings.node_id, worker_id, epoch=None)
        return store.workers.take(
            WorkerRecord(
                worker_id=worker_id,
                node_id=settings.node_id,
                scope=scope,
                status=WorkerState.IDLE,
                pid=os.getpid(),
                pid_started=process_started(os.getpid()),
                slots=settings.slots,
                started_at_us=at_us,
                heartbeat_at_us=at_us,
                lease_until_us=at_us + round(settings.lease_s * 1e6),
            )
        )


def _parse(document: Mapping[str, Json]) -> DagSpec:
    from cis.model.document import dag_from_plain  # noqa: PLC0415 - pydantic, for the rare DAG within a DAG

    return dag_from_plain(document)
