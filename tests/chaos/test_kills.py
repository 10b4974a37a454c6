"""KILL of workers, nodes and tasks at random moments: nothing accepted is lost, nothing is accepted twice.

While clients hand in small DAGs, each under a key of its own, processes of the home are killed: a task with its group; a
worker; a worker that was just started, before its first heartbeat; the node; the node while a client waits for
its answer. A client that got none asks again with the same key, of whichever node runs then.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from cis.executors.platform import environment_of, kill_if_still, process_started, signal_group
from tests.chaos.besieged import Besieged, besieged
from tests.worlds.battery import figures, first_seed, size
from tests.worlds.waiting import wait_for

KILLS = int(os.environ.get("CIS_KILLS", size(30, 1000)))
HOMES = 2
LEASE_S = 2.0
OPEN_RUNS = 16
SCOPES = "abcd"
KINDS = {"task": 40, "worker": 25, "newborn": 15, "node": 8, "answer": 12}


@dataclass(slots=True)
class Siege:
    """One home, its attacker, and the clients that hand DAGs in meanwhile."""

    place: Besieged
    seed: str
    chance: random.Random = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)
    accepted: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - chance that can be repeated

    def submit(self, key: str, *, sent: threading.Event | None = None) -> None:
        """Hand in one DAG, again and again until there is an answer."""
        chance = random.Random(f"{self.seed}-{key}")  # noqa: S311 - chance that can be repeated
        # Most are short; a few outlive the worker that started them, if nobody ends them.
        lengths = [chance.uniform(1.0, 3.0) if chance.random() < 0.1 else chance.uniform(0.01, 0.15) for _ in "abc"]
        document = self.place.document(chance.choice(SCOPES), lengths)
        asked, deadline_s = 0, time.monotonic() + 120.0
        while True:
            assert time.monotonic() < deadline_s, f"{key} was never taken"
            node = wait_for(self.place.reach, timeout_s=60, what="a node that listens")
            assert node is not None
            try:
                if sent is not None:
                    sent.set()
                asked += 1
                answer = node.execute(document, **{"Idempotency-Key": key})
            except (OSError, http.client.HTTPException) as error:
                refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
                self.counts["cut_answers"] += not refused
                continue
            if answer.status == 503:
                continue
            assert answer.status in (200, 202), answer
            if answer.status == 200:
                assert asked > 1
                self.counts["committed_unanswered"] += 1
            self.accepted[key] = answer.body["run_id"]
            return

    def keep_submitting(self) -> None:
        """Hand in DAGs until the siege is over, but never many more than are finished."""
        number = 0
        while not self.over.is_set():
            if len(self.accepted) and self.place.unfinished() >= OPEN_RUNS:
                self.over.wait(0.05)
                continue
            number += 1
            self.submit(f"k{number}")

    def attack(self, kills: int) -> None:
        """Kill so many processes, each at a random moment."""
        number = 0
        while number < kills:
            (kind,) = self.chance.choices(list(KINDS), list(KINDS.values()))
            self.over.wait(self.chance.uniform(0.0, 0.2))
            if not getattr(self, f"kill_{kind}")():
                continue
            number += 1
            self.counts[kind] += 1
            if number % 10 == 0:
                self.place.check_no_lost_attempt_lives()

    def kill_task(self) -> bool:
        """Kill a task and its group."""
        tasks = self.place.tasks()
        if not tasks:
            return False
        group = _group_of(self.chance.choice(sorted(tasks)))
        if group in (0, os.getpgid(0)):
            return False  # it has just ended; group 0 would be our own
        signal_group(group, 9)
        return True

    def kill_worker(self) -> bool:
        """Kill a worker at whatever it does."""
        pids = self.place.workers()
        return bool(pids) and self._end(self.chance.choice(pids))

    def kill_newborn(self) -> bool:
        """Kill a worker, and the next one that is started before it can do much."""
        known = set(self.place.workers())
        if known:
            self._end(self.chance.choice(sorted(known)))
        deadline_s = time.monotonic() + 3.0
        while time.monotonic() < deadline_s:
            born = set(self.place.workers()) - known
            if born:
                self.over.wait(self.chance.uniform(0.0, 0.25))
                pid = born.pop()
                served = self.place.sandbox.rows("SELECT 1 FROM workers WHERE pid = ? AND status != 'dead'", (pid,))
                ended = self._end(pid)
                self.counts["before_first_heartbeat"] += ended and not served
                return ended
        return False

    def kill_node(self) -> bool:
        """Kill the node, and start another at once."""
        self.place.kill_node()
        self.place.start_node()
        return True

    def kill_answer(self) -> bool:
        """Kill the node while a client waits for its answer."""
        wait_for(self.place.reach, timeout_s=60, what="a node that listens")
        sent = threading.Event()
        key, moment_s = f"answer-{self.counts['answer']}", self.chance.uniform(0.0, 0.03)
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(self.submit, key, sent=sent)
            sent.wait()
            if self.chance.random() < 0.5:
                self.over.wait(moment_s)
            else:
                self._see_stored(key)
            self.kill_node()
            client.result()
        return True

    def _see_stored(self, key: str) -> None:
        """Return as soon as a run of this key is in the database: its client has not been told yet, with luck."""
        connection = apsw.Connection(str(self.place.home / "cis.db"), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(10_000)
        deadline_s = time.monotonic() + 5.0
        while time.monotonic() < deadline_s:
            if list(connection.execute("SELECT 1 FROM dag_runs WHERE idempotency_key = ?", (key,))):
                break
        connection.close()

    def _end(self, pid: int) -> bool:
        if process_started(pid) is None:
            return False
        entry = b"CIS_HOME=" + os.fsencode(self.place.home)
        kill_if_still(pid, lambda pid: entry in (environment_of(pid) or ()))
        return True

    def run(self, kills: int) -> None:
        """Attack while DAGs come in, then let all of them end, and see what is true then."""
        self.place.start_node()
        try:
            wait_for(self.place.reach, timeout_s=60, what="the node")
            with ThreadPoolExecutor(1) as pool:
                client = pool.submit(self.keep_submitting)
                try:
                    self.attack(kills)
                finally:
                    self.over.set()
                client.result()
            wait_for(lambda: not self.place.unfinished(), timeout_s=90, what="the end of every run")
            wait_for(self.place.reach, timeout_s=30, what="the node")
            assert self.place.stop() == 0
            self.place.check_nothing_is_left()
            self.place.check_once(self.accepted)
            self.counts["runs"] = len(self.accepted)
            self.counts["lost_attempts"] = len(self.place.attempts("status = 'lost'"))
        finally:
            self.place.end_everything()


def _group_of(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return 0


@pytest.mark.timeout(3600)
def test_whatever_is_killed_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    seed = first_seed()
    began_s = time.monotonic()
    sieges = [
        Siege(besieged(tmp_path / f"home-{number}", lease_s=LEASE_S), f"{seed}-{number}") for number in range(HOMES)
    ]
    with ThreadPoolExecutor(HOMES) as pool:
        for done in [pool.submit(siege.run, KILLS // HOMES) for siege in sieges]:
            done.result()
    found: Counter[str] = sum((siege.counts for siege in sieges), Counter())
    figures(
        "kill",
        seed=seed,
        seconds=round(time.monotonic() - began_s),
        kills=sum(found[kind] for kind in KINDS),
        lost=0,
        doubled=0,
        orphans=0,
        **dict(found),
    )
