"""All that reads a node's rows: the store's port, views, supervisor, worker, and what tells other nodes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import NoReturn

from cis.engine.accept import dispatch
from cis.engine.accept.control import cancel, pause, resume
from cis.engine.logfiles import LogFiles
from cis.engine.observe import views
from cis.engine.observe.logreader import LogChoice, LogReader
from cis.engine.run.attempts import AttemptMaker
from cis.engine.run.loop import WorkerLoop
from cis.engine.run.parts import LoopLimits, WorkerPorts
from cis.engine.this_node import Incarnation, ThisNode
from cis.engine.times import rfc3339
from cis.engine.upkeep.pruner import Cutoff, Pruner, Retention
from cis.errors import CisError
from cis.executors.local import LocalExecutor
from cis.federation.executing.claiming import eligible
from cis.federation.executing.report import Cursor, build_report
from cis.federation.inbox import Inbox
from cis.federation.messages import report_message
from cis.federation.origin.outbox import message_of
from cis.model.document import dag_from_plain
from cis.model.lease_terms import Standing
from cis.model.scope import Scope
from cis.model.states import RunState
from cis.node.clock import new_id, now, now_us
from cis.skills.registry import InstalledSkills
from cis.store.cluster import OfferState, RemoteRole, Route
from cis.store.port import Store, stored_spec
from cis.store.records import RunFilter
from cis.transports.envelope import seal
from cis.transports.keys import Signer, new_private_key
from cis.transports.matrix.client import MatrixClient
from cis.transports.matrix.journal import Journal
from cis.transports.receiver import Receiver
from cis.worker.bell import FifoBell
from cis.worker.supervisor import Supervisor, SupervisorParts
from tests.chaos.fuzzing.handle import DirectHandle, OneKey
from tests.chaos.fuzzing.household import ME, NODE, ROOM, WORKER, Household, worker_row
from tests.worlds.rows import attempts_of
from tests.worlds.serving import node_under_test
from tests.worlds.waiting import wait_for

FAR_US = 2**62
MAX_STEPS = 500
SIGNER = Signer(new_private_key())


def this_node() -> ThisNode:
    """Return node-1, with a room."""
    return ThisNode(
        node_id=NODE,
        skills=InstalledSkills(),
        clock_us=now_us,
        new_id=new_id,
        uptime_us=now_us,
        has_room=True,
        offers=True,
    )


def ask_all(store: Store, house: Household) -> int:
    """Ask the store everything, and show it as the command line and the API do; return how many answers were errors."""
    asked: list[Callable[[], object]] = [
        *_lists(store),
        *(question for run_id in house.runs for question in _of_run(store, run_id)),
        *(question for dag_id in ("demo", "sent", "offered", "") for question in _of_dag(store, dag_id)),
        *(lambda peer=peer: store.peers.get(peer) for peer in ("node-1", "node-2", "node-3")),
        *(lambda user=user: store.peers.by_user(user) for user in ("@node-2:x", "@node-3:x")),
    ]
    return sum(_refused(question) for question in asked)


def _refused(question: Callable[[], object]) -> bool:
    try:
        question()
    except CisError:
        return True
    return False


def _lists(store: Store) -> list[Callable[[], object]]:
    wheres = (RunFilter(), RunFilter(dag_id="demo"), RunFilter(status=RunState.PENDING), RunFilter(node=NODE))
    return [
        *(lambda where=where: _pages(store, where) for where in wheres),
        store.runs.unfinished_counts,
        lambda: [views.dag_view(one) for one in store.definitions.page(limit=9).items],
        lambda: store.definitions.page(limit=1, saved_only=True),
        lambda: [views.worker_view(one) for one in store.workers.all()],
        lambda: [views.event_view(one) for one in store.events.after(0, limit=99)],
        store.events.last_seq,
        lambda: [(one.name, one.may, rfc3339(one.created_at_us)) for one in store.tokens.all()],
        lambda: store.tokens.by_sha256("5" * 64),
        lambda: [rfc3339(one.at_us) for one in store.audit.page(limit=99)],
        lambda: [views.peer_view(one, outbox=0, now_us=now_us()) for one in store.peers.all()],
        store.outbox.depths,
        lambda: store.outbox.schedule(now_us=FAR_US),
        lambda: store.room.cursor(ROOM),
        lambda: [store.room.event(f"$e{number}") for number in (2, 3)],
        lambda: store.attempts.running(WORKER),
        lambda: store.workers.get(NODE, WORKER),
        lambda: store.runs.unfinished_elsewhere(WORKER, "node-2"),
        lambda: store.queue.load(NODE, at_most=9),
        lambda: store.queue.waiting_count(NODE),
        lambda: [eligible(one, labels=["gpu"], grace_s=1) for one in store.offers.in_state(OfferState.OPEN, limit=9)],
        lambda: store.remotes.open(RemoteRole.SENT),
    ]


def _pages(store: Store, where: RunFilter) -> list[object]:
    page = store.runs.page(where, limit=2)
    shown = [views.run_list_item(run) for run in page.items]
    if page.next_cursor is not None:
        shown += [views.run_list_item(run) for run in store.runs.page(where, limit=9, cursor=page.next_cursor).items]
    return list(shown)


def _of_run(store: Store, run_id: str) -> list[Callable[[], object]]:
    return [
        lambda: views.read_run(store, run_id),
        lambda: store.runs.heads([run_id]),
        lambda: store.runs.children(run_id),
        lambda: store.tasks.get(run_id, "t0"),
        lambda: attempts_of(store, run_id),
        lambda: store.queue.get(run_id),
        lambda: store.remotes.get(run_id),
        lambda: store.offers.get(run_id),
        lambda: store.room.thread(run_id),
        lambda: store.remotes.withdrawn(run_id, sender="node-2"),
        lambda: dispatch.on_its_way(store, run_id),
    ]


def _of_dag(store: Store, dag_id: str) -> list[Callable[[], object]]:
    def spec() -> object:
        found = store.definitions.current(dag_id)
        return None if found is None else stored_spec(store.definitions, found.definition_id)

    return [lambda: views.read_status(store, dag_id), lambda: store.runs.latest(dag_id), spec]


def read_logs(store: Store, house: Household, logs: LogFiles) -> None:
    """Read the logs of every run."""
    for run_id in house.runs:
        reader = LogReader(logs, run_id, LogChoice())
        _refused(lambda reader=reader: reader.look(store))  # type: ignore[misc]


def control_all(store: Store, house: Household) -> None:
    """Pause, resume and cancel each run that is not innocent, and undo that."""
    for run_id in set(house.runs) - set(house.innocent):
        for action in (pause, resume, cancel):
            with store.transaction():
                _refused(lambda act=action, one=run_id: _undone(store, act, one))  # type: ignore[misc]


class _UndoneError(CisError):
    pass


def _undone(store: Store, action: Callable[..., object], run_id: str) -> NoReturn:
    with store.savepoint():
        action(store, run_id, now_us=now_us())
        raise _UndoneError


def tell_others(store: Store, house: Household, logs: LogFiles) -> None:
    """Make each message that is due, and a report on each run, as they go out; forget what is late."""
    for route in Route:
        for item in store.outbox.due(route, now_us=FAR_US, limit=99):
            _refused(lambda item=item: seal(message_of(store, item, sender=NODE, lease_s=60.0), SIGNER))  # type: ignore[misc]
            with store.transaction():
                _refused(lambda item=item: _undone(store, _expire, item))  # type: ignore[misc]
    for run_id in house.runs:
        _refused(lambda run_id=run_id: _report(store, logs, run_id))  # type: ignore[misc]


def _expire(store: Store, item: object, *, now_us: int) -> None:
    dispatch.expire(store, [item], now_us=now_us)  # type: ignore[list-item]


def _report(store: Store, logs: LogFiles, run_id: str) -> None:
    report = build_report(store, logs, run_id, tasks=None, cursor=Cursor())
    message = report_message(
        run_id,
        report.content,
        sender=NODE,
        origin="node-2",
        message_id="m",
        now_us=now_us(),
        standing=Standing(epoch=1, suspended=True, nonce="n"),
    )
    seal(message, SIGNER)


def read_room(store: Store, logs: LogFiles) -> None:
    """Act on what is new in the room's journal; nothing may stop it."""
    handle = DirectHandle(this_node(), logs, OneKey(SIGNER), store)

    async def work() -> None:
        async def chat(_: object) -> None:
            return

        receiver = Receiver(handle, Inbox(handle, taken=lambda _: None), spoke=lambda _: None)
        client = MatrixClient("http://127.0.0.1:1", "token")
        await Journal(handle, receiver, client, room_id=ROOM, me=ME, chat=chat).work()
        await client.aclose()

    asyncio.run(work())


def meet_demand(store: Store, folder: Path) -> set[str]:
    """Let a supervisor look at the queue and at what dead workers left; return the workers that it wants to start."""
    wanted: set[str] = set()

    def spawn(worker_id: str, _scope: Scope, _descriptor: int) -> NoReturn:
        wanted.add(worker_id)
        raise OSError("no process is to be started here")

    bell = FifoBell(folder / "supervisor.fifo")
    supervisor = Supervisor(
        SupervisorParts(
            store=store,
            node_id=NODE,
            run_dir=folder,
            bell=bell,
            spawn=spawn,
            kill_orphans=lambda _: (),
            kill_process=lambda _pid, _started: True,
            clock=now,
            retire_signal=signal.SIGUSR1,
            dismiss_signal=signal.SIGUSR2,
            max_workers=8,
            lease_s=60.0,
            told=lambda: None,
            reap=lambda _: None,
        )
    )
    try:
        supervisor.turn(at_most_s=0)
    finally:
        supervisor.close(timeout_s=0)
        bell.close()
    return wanted


def prune(store: Store, logs: LogFiles) -> None:
    """Forget, as in a year, all that is over; nothing may stop that, and it comes to its end."""
    pruner = Pruner(store, logs, Retention(max_age_s=1.0, max_log_age_s=1.0), elapsed_s=monotonic)
    cutoff = Cutoff(now_us=now_us() + 366 * 86_400_000_000)
    steps = sum(1 for _ in islice(chain(pruner.runs(cutoff), pruner.leftovers(cutoff)), MAX_STEPS))
    assert steps < MAX_STEPS


def run_to_the_end(store: Store, house: Household, folder: Path) -> None:
    """Be the worker until the innocent runs are completed."""
    with _worker(store, folder) as loop:

        def over() -> bool:
            loop.turn(at_most_s=0.02)
            return all(_state(store, run_id) is RunState.COMPLETED for run_id in house.innocent)

        wait_for(over, timeout_s=15, what="the innocent runs to be completed")


def _state(store: Store, run_id: str) -> RunState | None:
    run = store.runs.get(run_id)
    return None if run is None else run.status


@contextmanager
def _worker(store: Store, folder: Path) -> Iterator[WorkerLoop]:
    with store.transaction():
        epoch = store.workers.take(worker_row()).epoch
    logfiles = LogFiles(folder / "logs")
    bell = FifoBell(folder / "worker.fifo")
    executor = LocalExecutor(max_log_bytes=2**20, wake_up=bell)
    parts = WorkerPorts(
        store=store,
        executor=executor,
        maker=AttemptMaker(
            skills=InstalledSkills(),
            logfiles=logfiles,
            base_env={"PATH": os.environ["PATH"]},
            node_id=NODE,
            worker_id=WORKER,
            workdir=folder,
        ),
        this_node=this_node(),
        bell=bell,
        ring=lambda _: None,
        tell=lambda: None,
        clock=now,
        jitter=lambda: 0.0,
        parse=dag_from_plain,
    )
    try:
        yield WorkerLoop(parts, LoopLimits(slots=4, grace_s=1.0, lease_s=60.0), Incarnation(NODE, WORKER, epoch))
    finally:
        executor.close()
        bell.close()


SHELL: Sequence[Sequence[str]] = (
    ("dag", "list"),
    ("dag", "status", "demo"),
    ("dag", "logs", "demo"),
    ("worker", "list"),
    ("audit", "--json"),
    ("token", "list"),
    ("node", "list"),
)
PATHS = ("dags", "runs", "workers", "nodes", "dags/demo/status", "runs/{victim}", "runs/{received}")


def ask_shell(folder: Path) -> None:
    """Ask the commands that read; each answers, or fails in our own words."""
    environment = {"PATH": os.environ["PATH"], "CIS_HOME": str(folder), "CIS_NODE_ID": NODE}
    for words in SHELL:
        done = subprocess.run(
            [sys.executable, "-m", "cis", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"Traceback" not in done.stderr, f"cis {' '.join(words)}: {done.stderr.decode(errors='replace')}"
        assert done.returncode >= 0


def ask_api(folder: Path, house: Household) -> None:
    """Ask the API what it tells of runs; each answer is one, or a problem that says what is the matter."""
    with node_under_test(folder) as node:
        for path in PATHS:
            answer = node.call("GET", f"/api/v1/{path.format(victim=house.victim, received=house.received)}")
            assert answer.status_code < 500 or answer.json()["code"].startswith("store."), answer.text
        assert node.call("GET", "/metrics").status_code == 200
