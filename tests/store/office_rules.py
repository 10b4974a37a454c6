"""Any sequence of what happens to a worker, its epochs, its lease and its queue, and what must hold after each."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cis.errors import FencedError
from cis.model.states import Priority
from cis.store import open_store
from cis.store.cluster import RemoteRole, RemoteRun
from cis.store.records import Heartbeat, QueueState, WorkerRecord, WorkerState
from tests.worlds.migrated import fast_folder, new_database
from tests.worlds.rows import WORKER, item, put_run, worker

QUEUED, SUSPENDED = 0, -1  # what stands in the queue's model for an epoch when no worker holds the run
LEASE_US = 30
BACK = st.sampled_from((0, 0, 0, 1, 2))  # how many epochs ago a writer took the id
RUNS = ("r000", "r001", "r002")
run_ids = st.sampled_from(RUNS)


class OfficeRules(RuleBasedStateMachine):
    """One worker id with its processes, one after the other, and three runs that may be in its queue."""

    examples = 0
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = fast_folder()
        self.store = open_store(new_database(Path(self.folder.name)))
        for run_id in RUNS:
            put_run(self.store, run_id, tasks=1)
        self.now_us = 1
        self.epoch = 0
        self.worker: WorkerRecord | None = None
        self.remotes: dict[str, RemoteRun] = {}
        self.queue: dict[str, tuple[Priority, int]] = {}  # run id -> priority, and the epoch that holds it
        OfficeRules.examples += 1

    def teardown(self) -> None:
        """Close the database of this example."""
        self.store.close()
        self.folder.cleanup()

    @rule(for_us=st.integers(-100, 100))
    def let_time_pass(self, for_us: int) -> None:
        """The wall clock may be set back, too."""
        self.now_us = max(1, self.now_us + for_us)

    @initialize()
    def begin_in_office(self) -> None:
        """Without a worker and its queue most rules have nothing to change."""
        self.take_office()
        for run_id in RUNS:
            self.enqueue(run_id, Priority.NORMAL)

    @rule()
    def take_office(self) -> None:
        """A new process of the worker id: the next epoch, and with it all that older ones held."""
        with self.store.transaction():
            self.epoch += 1
            taken = self.store.workers.take(worker(started_at_us=self.now_us, lease_until_us=self.now_us + LEASE_US))
            self.store.queue.hand_over("n", WORKER, epoch=self.epoch)
        self.worker = worker(
            epoch=self.epoch, started_at_us=self.now_us, lease_until_us=self.now_us + LEASE_US, runs_done=0
        )
        assert taken == self.worker
        self.queue = {run_id: (p, self.epoch if held > 0 else held) for run_id, (p, held) in self.queue.items()}

    @rule(back=BACK)
    def write_under_an_epoch(self, back: int) -> None:
        try:
            with self.store.transaction():
                self.store.workers.check_epoch("n", WORKER, self.epoch - back)
        except FencedError:
            assert back > 0 or self.fenced
        else:
            assert back == 0
            assert not self.fenced

    @rule(back=BACK, status=st.sampled_from((WorkerState.IDLE, WorkerState.BUSY, WorkerState.WAITING)), run_id=run_ids)
    def beat(self, back: int, status: WorkerState, run_id: str) -> None:
        """A heartbeat renews the lease of the current epoch, and of no other, nor of one that was declared dead."""
        until_us = self.now_us + LEASE_US
        done = 0 if self.worker is None else self.worker.runs_done + 1
        try:
            with self.store.transaction():
                self.store.workers.beat(
                    Heartbeat(
                        "n",
                        WORKER,
                        epoch=self.epoch - back,
                        status=status,
                        now_us=self.now_us,
                        lease_until_us=until_us,
                        runs_done=done,
                        current_run=run_id,
                    )
                )
        except FencedError:
            assert back > 0 or self.fenced
        else:
            assert back == 0
            assert not self.fenced
            assert self.worker is not None
            self.worker = self.worker._replace(
                status=status,
                heartbeat_at_us=self.now_us,
                lease_until_us=until_us,
                runs_done=done,
                current_run=run_id,
            )

    @rule(back=BACK, status=st.sampled_from((WorkerState.STOPPED, WorkerState.DEAD)))
    def leave_office(self, back: int, status: WorkerState) -> None:
        """Its own goodbye, or somebody else's word that it is dead: a dead epoch stays so."""
        with self.store.transaction():
            changed = self.store.workers.set_status(
                "n", WORKER, epoch=self.epoch - back, status=status, now_us=self.now_us
            )
        assert changed is (back == 0 and not self.fenced)
        if changed and self.worker is not None:
            self.worker = self.worker._replace(status=status, heartbeat_at_us=self.now_us, current_run=None)

    @rule(run_id=run_ids, epoch=st.integers(1, 3))
    def grant(self, run_id: str, epoch: int) -> None:
        """Another node grants a run: its lease is stored beside it, and puts back what was suspended."""
        remote = RemoteRun(
            run_id=run_id,
            role=RemoteRole.RECEIVED,
            peer_id="n2",
            epoch=epoch,
            lease_until_us=self.now_us + LEASE_US,
            lease_us=LEASE_US,
        )
        with self.store.transaction():
            self.store.remotes.put(remote)
            self.store.queue.move(run_id, QueueState.QUEUED)
        self.remotes[run_id] = remote
        self.stand(run_id, QUEUED)

    @property
    def fenced(self) -> bool:
        """Whether not even the current epoch may write."""
        return self.worker is None or self.worker.status is WorkerState.DEAD

    @rule(run_id=run_ids, priority=st.sampled_from(Priority))
    def enqueue(self, run_id: str, priority: Priority) -> None:
        if run_id not in self.queue:
            with self.store.transaction():
                self.store.queue.add("n", item(run_id, priority=priority))
            self.queue[run_id] = (priority, QUEUED)

    @rule(limit=st.integers(1, 3), above=st.sampled_from([None, *Priority]))
    def claim(self, limit: int, above: Priority | None) -> None:
        """The most urgent first, then who waits longest; a dict keeps the order in which runs came."""
        waiting = [
            (p, run_id) for run_id, (p, held) in self.queue.items() if held == QUEUED and (above is None or p > above)
        ]
        expected = [run_id for _, run_id in sorted(waiting, key=lambda one: -one[0])[:limit]]
        epoch = max(self.epoch, 1)
        with self.store.transaction():
            claimed = self.store.queue.claim("n", WORKER, epoch=epoch, limit=limit, above=above)
        assert [one.run_id for one in claimed] == expected
        self.queue.update({run_id: (self.queue[run_id][0], epoch) for run_id in expected})

    @rule(run_id=run_ids)
    def release(self, run_id: str) -> None:
        with self.store.transaction():
            self.store.queue.move(run_id, QueueState.QUEUED)
        self.stand(run_id, QUEUED)

    @rule(run_id=run_ids)
    def suspend(self, run_id: str) -> None:
        with self.store.transaction():
            self.store.queue.move(run_id, QueueState.SUSPENDED)
        self.stand(run_id, SUSPENDED)

    def stand(self, run_id: str, held: int) -> None:
        """Note where a run stands in the queue, if it is in it."""
        if run_id in self.queue:
            self.queue[run_id] = (self.queue[run_id][0], held)

    @rule(run_id=run_ids)
    def dequeue(self, run_id: str) -> None:
        with self.store.transaction():
            self.store.queue.remove(run_id)
        self.queue.pop(run_id, None)

    @rule()
    def reopen(self) -> None:
        """Nothing of all this is kept in memory."""
        self.store.close()
        self.store = open_store(Path(self.folder.name) / "cis.db")

    @invariant()
    def the_worker_is_as_the_model_has_it(self) -> None:
        assert self.store.workers.get("n", WORKER) == self.worker
        live = [] if self.worker is None or not self.worker.status.live else [self.worker]
        assert list(self.store.workers.all(node_id="n", live_only=True)) == live
        for run_id, remote in self.remotes.items():
            assert self.store.remotes.get(run_id) == remote
        OfficeRules.steps += 1

    @invariant()
    def the_queue_is_as_the_model_has_it(self) -> None:
        rows = [row for row in map(self.store.queue.get, self.queue) if row is not None]
        held = {row.run_id: row.epoch for row in rows if row.status is QueueState.CLAIMED}
        assert held == {run_id: epoch for run_id, (_, epoch) in self.queue.items() if epoch > 0}
        waiting = [priority for priority, epoch in self.queue.values() if epoch == QUEUED]
        assert self.store.queue.waiting_count("n") == len(waiting)
        demand = self.store.queue.demand("n")
        assert [(one.runs, one.priority) for one in demand] == ([(len(waiting), max(waiting))] if waiting else [])
