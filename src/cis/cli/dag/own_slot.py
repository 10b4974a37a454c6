"""Whether a task waits for a run that waits for the task's own slot: ``cis dag run --wait`` in a task of the same worker.

Where every slot is held by a task like that, nothing goes on, and none of them would ever say why.
"""

from __future__ import annotations

import os
import time

from cis.cli.context import say
from cis.engine.observe.views import read_status
from cis.engine.observe.waiting import WaitReason
from cis.store.port import Store
from cis.store.records import RunRecord

AFTER_S = 2.0
AGAIN_S = 10.0


class OwnSlot:
    """Says once, in the log of the task in which this command runs, that it holds a slot which *run* waits for."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        holds = os.environ.get("CIS_WORKER_ID") == run.worker_id and "CIS_RUN_ID" in os.environ
        self._due_s = time.monotonic() + AFTER_S if holds else float("inf")

    def look(self, store: Store) -> None:
        """See whether that is so, now and then."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + AGAIN_S
        (run,) = read_status(store, self._run.dag_id, run_id=self._run.run_id)["runs"]
        if run["waiting"] is not None and run["waiting"]["reason"] == WaitReason.SLOT:
            self._due_s = float("inf")
            say(
                f"run {self._run.run_id} waits for a slot of {self._run.worker_id}, and this task,"
                f" {os.environ.get('CIS_TASK_ID')} of run {os.environ['CIS_RUN_ID']}, holds one while it waits for that"
                " run. If every slot is held like that, nothing goes on. Make the DAG a task (skill: dag), which takes"
                " no slot; or give it another scope, or the worker more slots"
            )
