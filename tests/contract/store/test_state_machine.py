"""Runs, tasks, queue, epochs and leases under any sequence of changes: no illegal state can be stored."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from cis.errors import FencedError
from cis.store.cluster import RemoteRole, RemoteRun
from cis.store.records import RunRecord, WorkerRecord, WorkerState
from tests.battery import LONG, figures, first_seed, size
from tests.contract.store.row_rules import QUEUED, RowRules
from tests.contract.store.rows import WORKER, worker

LEASE_US = 30
BACK = st.sampled_from((0, 0, 0, 1, 2))  # how many epochs ago a writer took the id


class Machine(RowRules):
    """The rows of runs, and beside them the worker that holds them, under one epoch after another."""

    examples = 0
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 1
        self.worker: WorkerRecord | None = None
        self.remotes: dict[str, RemoteRun] = {}
        Machine.examples += 1

    @rule(for_us=st.integers(-100, 100))
    def let_time_pass(self, for_us: int) -> None:
        """The wall clock may be set back, too."""
        self.now_us = max(1, self.now_us + for_us)

    @rule()
    def take_office(self) -> None:
        """A new process of the worker id: the next epoch, and with it all that older ones held."""
        with self.store.transaction():
            self.epoch += 1
            taken = self.store.take_worker(worker(started_at_us=self.now_us, lease_until_us=self.now_us + LEASE_US))
            self.store.reclaim("n", WORKER, epoch=self.epoch)
        self.worker = worker(
            epoch=self.epoch, started_at_us=self.now_us, lease_until_us=self.now_us + LEASE_US, runs_done=0
        )
        assert taken == self.worker
        self.queue = {run_id: (p, self.epoch if held > 0 else held) for run_id, (p, held) in self.queue.items()}

    @rule(back=BACK)
    def write_under_an_epoch(self, back: int) -> None:
        try:
            with self.store.transaction():
                self.store.check_epoch("n", WORKER, self.epoch - back)
        except FencedError:
            assert back > 0 or self.fenced
        else:
            assert back == 0
            assert not self.fenced

    @rule(
        back=BACK, status=st.sampled_from((WorkerState.IDLE, WorkerState.BUSY, WorkerState.WAITING)), run=RowRules.reads
    )
    def beat(self, back: int, status: WorkerState, run: RunRecord) -> None:
        """A heartbeat renews the lease of the current epoch, and of no other, nor of one that was declared dead."""
        until_us = self.now_us + LEASE_US
        done = 0 if self.worker is None else self.worker.runs_done + 1
        try:
            with self.store.transaction():
                self.store.beat(
                    "n",
                    WORKER,
                    epoch=self.epoch - back,
                    status=status,
                    now_us=self.now_us,
                    lease_until_us=until_us,
                    runs_done=done,
                    current_run=run.run_id,
                )
        except FencedError:
            assert back > 0 or self.fenced
        else:
            assert back == 0
            assert not self.fenced
            assert self.worker is not None
            self.worker = replace(
                self.worker,
                status=status,
                heartbeat_at_us=self.now_us,
                lease_until_us=until_us,
                runs_done=done,
                current_run=run.run_id,
            )

    @rule(back=BACK, status=st.sampled_from((WorkerState.STOPPED, WorkerState.DEAD)))
    def leave_office(self, back: int, status: WorkerState) -> None:
        """Its own goodbye, or somebody else's word that it is dead: a dead epoch stays so."""
        with self.store.transaction():
            changed = self.store.set_worker_status(
                "n", WORKER, epoch=self.epoch - back, status=status, now_us=self.now_us
            )
        assert changed is (back == 0 and not self.fenced)
        if changed and self.worker is not None:
            self.worker = replace(self.worker, status=status, heartbeat_at_us=self.now_us, current_run=None)

    @rule(run=RowRules.reads, epoch=st.integers(1, 3))
    def grant(self, run: RunRecord, epoch: int) -> None:
        """Another node grants a run: its lease is stored beside it, and puts back what was suspended."""
        remote = RemoteRun(
            run_id=run.run_id,
            role=RemoteRole.RECEIVED,
            peer="n2",
            epoch=epoch,
            lease_until_us=self.now_us + LEASE_US,
            lease_us=LEASE_US,
        )
        with self.store.transaction():
            self.store.put_remote(remote)
            self.store.release(run.run_id)
        self.remotes[run.run_id] = remote
        self.stand(run.run_id, QUEUED)

    @property
    def fenced(self) -> bool:
        """Whether not even the current epoch may write."""
        return self.worker is None or self.worker.status is WorkerState.DEAD

    def check_rows(self) -> None:
        super().check_rows()
        assert self.store.worker("n", WORKER) == self.worker
        live = [] if self.worker is None or not self.worker.status.live else [self.worker]
        assert list(self.store.workers(node_id="n", live_only=True)) == live
        for run_id, remote in self.remotes.items():
            assert self.store.remote_run(run_id) == remote
        Machine.steps += 1


@pytest.mark.timeout(1800 if LONG else 300)
def test_no_sequence_of_changes_stores_an_illegal_state() -> None:
    first, count = first_seed(), size(300, 5000)
    Machine.examples = Machine.steps = 0
    began_s = time.monotonic()

    run_state_machine_as_test(
        seed(first)(Machine),
        settings=settings(
            max_examples=count,
            stateful_step_count=25,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )

    seconds = round(time.monotonic() - began_s, 1)
    figures("states", examples=Machine.examples, steps=Machine.steps, seed=first, seconds=seconds)
