"""Every way out of a process group, and every end of an attempt: nothing survives it, and nothing runs beside its successor.

A task starts a process that gets away, as ``timeout(1)``, ``setsid``, daemons and Python do, and then works, or ends by itself. Its
attempt is ended by its time limit, a cancel, a stop of the node or the loss of a lease; or its worker or node is killed. The process that got away
holds a lock of its task for as long as it lives, and keeps saying which attempt it is of: so a survivor is seen, and so are two side by side.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cis.executors.platform import HAS_PROC
from cis.executors.processes import processes
from tests.chaos.besieged import Besieged, besieged
from tests.worlds.battery import figures, first_seed, size
from tests.worlds.waiting import wait_for

CASES = int(os.environ.get("CIS_ESCAPES", size(14, 500)))
LANES = size(2, 4)
LEASE_S = 1.5
PY = sys.executable

# {beat} is the program that gets away; {rest} is what the task does then.
WAYS = {
    "timeout": "timeout 600 {beat} & {rest}",
    "setsid": "setsid {beat} & {rest}",
    "setsid -f": "setsid -f {beat}; {rest}",
    "bash -m": "bash -c 'set -m; {beat} & {rest}'",
    "double fork": "{py} {fork} {beat}; {rest}",
    "new session": "{py} {session} {beat}; {rest}",
    "env -i setsid": "env -i setsid {beat} & {rest}",
    "env -i, no parent": "(env -i setsid {beat} &) ; {rest}",
    "nohup": "nohup {beat} >/dev/null 2>&1 & {rest}",
    "background": "{beat} & {rest}",
}
ENDS = ("limit", "cancel", "stop", "lease", "worker", "node", "itself")
_FORK = "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nos.execv(sys.argv[1], sys.argv[1:])\n"
_SESSION = "import subprocess, sys\nsubprocess.Popen(sys.argv[1:], start_new_session=True)\n"
_BEAT = """#!/bin/sh
{trap}
exec 8>>"$0.lock"
flock -n 8 || : > "$0.overlap.$1"
echo $$ > "$0.pid.$1"
while :; do sleep 0.05 8>&-; done
"""


@dataclass(slots=True)
class Lane:
    """One home in which one case comes after the other."""

    place: Besieged
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def run(self, numbers: Iterable[int]) -> None:
        """Play the cases, and then see that nothing is left of any."""
        tools = self.place.marks
        (tools / "fork.py").write_text(_FORK)
        (tools / "session.py").write_text(_SESSION)
        self.place.start_node()
        try:
            for number in numbers:
                self.play(number)
            assert self.place.stop() == 0
            self.place.check_nothing_is_left()
        finally:
            self.place.end_everything()
            for pid in self.beats(self.place.marks):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def play(self, number: int) -> None:
        """Play one case: let a process get away, end its attempt, and look."""
        chance = random.Random(f"{self.seed}-{number}")  # noqa: S311 - chance that can be repeated
        way, end = chance.choice(list(WAYS)), ENDS[number % len(ENDS)]
        name = f"{number}: {way}, {end}"
        beat = self.place.marks / f"beat{number}"
        beat.write_text(_BEAT.format(trap="trap '' TERM" if chance.random() < 0.3 else ":"))
        beat.chmod(0o700)
        node = wait_for(self.place.reach, timeout_s=60, what="the node")
        assert node is not None
        run_id = node.execute(self.document(number, beat, way=way, end=end)).body["run_id"]
        wait_for(lambda: Path(f"{beat}.pid.1").exists(), timeout_s=60, what=f"the process that gets away ({name})")
        threading.Event().wait(chance.uniform(0.0, 0.3))
        self.end(run_id, end)
        self.finished(run_id, name)
        left = self.beats(beat)
        if left:
            self.survivors.append(f"{name}: {left}")
        self.beside += [f"{name}: {path.name}" for path in self.place.marks.glob(f"{beat.name}.overlap.*")]
        self.counts[end] += 1
        self.counts[f"by {way}"] += 1

    def document(self, number: int, beat: Path, *, way: str, end: str) -> Mapping[str, Any]:
        """Return a DAG whose task lets *beat* get away at its first two attempts, and completes at the third."""
        rest = f"until [ -s {beat}.pid.$CIS_ATTEMPT ]; do sleep 0.02; done"
        rest += "; exit 1" if end == "itself" else "; sleep 600"
        tools = self.place.marks
        line = WAYS[way].format(
            py=PY, fork=tools / "fork.py", session=tools / "session.py", beat=f"{beat} $CIS_ATTEMPT", rest=rest
        )
        task: dict[str, Any] = {"id": "t", "command": f"test $CIS_ATTEMPT -ge 3 || {{ {line}; }}"}
        if end == "limit":
            task |= {"timeout": "1s"}
        if end in ("limit", "itself"):
            task |= {"max_retries": 2, "retry_delay": "1ms"}
        return {"dag_id": f"proj-{'ab'[number % 2]}-x", "tasks": [task]}

    def end(self, run_id: str, end: str) -> None:
        """End the first attempt; where another follows, kill the worker of that one, too."""
        if end == "cancel":
            node = self.place.reach()
            assert node is not None
            node.call("POST", f"/api/v1/runs/{run_id}/cancel")
        elif end == "stop":
            assert self.place.stop() == 0
            self.look_between(run_id)
            self.place.start_node()
        elif end == "node":
            self.place.kill_node()
            self.place.start_node()
        elif end in ("worker", "lease"):
            self.hit_worker(run_id, signal.SIGKILL if end == "worker" else signal.SIGSTOP)
        if end in ("stop", "node", "worker", "lease"):
            self.wait_for_second(run_id)
            self.hit_worker(run_id, signal.SIGKILL)

    def look_between(self, run_id: str) -> None:
        """After an orderly stop nothing is left, although nobody has taken the run up yet."""
        left = self.beats(self.place.marks)
        if left:
            self.survivors.append(f"{run_id} after a stop: {left}")

    def wait_for_second(self, run_id: str) -> None:
        """Wait until the second attempt has let its process get away."""
        rows = "SELECT 1 FROM task_executions WHERE run_id = ? AND attempt = 2"
        wait_for(lambda: self.place.sandbox.rows(rows, (run_id,)), timeout_s=60, what="the second attempt")
        threading.Event().wait(0.2)

    def hit_worker(self, run_id: str, number: int) -> None:
        """Send a signal to the worker that runs a run."""
        asked = "SELECT pid FROM workers WHERE worker_id = (SELECT worker_id FROM dag_runs WHERE run_id = ?)"
        pid = self.place.sandbox.rows(asked, (run_id,))[0][0]
        if pid in self.place.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def finished(self, run_id: str, name: str) -> None:
        """Wait until a run is over."""
        asked = "SELECT 1 FROM dag_runs WHERE run_id = ? AND status IN ('completed', 'failed', 'cancelled')"
        wait_for(lambda: self.place.sandbox.rows(asked, (run_id,)), timeout_s=90, what=f"the end of {name}")

    @staticmethod
    def beats(program: Path) -> list[int]:
        """Return the processes that got away as *program*, or as any in that folder, and still do something."""
        wanted = os.fsencode(program) + (b"/" if program.is_dir() else b"\0")
        found = []
        for seen in processes():
            with suppress(OSError):
                line = Path(f"/proc/{seen.pid}/cmdline").read_bytes()
                if not seen.dead and wanted in line and b"beat" in line:
                    found.append(seen.pid)
        return found


@pytest.mark.skipif(not HAS_PROC, reason="what got away is looked for in /proc")
@pytest.mark.timeout(7200)
def test_nothing_survives_its_attempt_however_it_got_away(tmp_path: Path) -> None:
    seed = first_seed()
    began_s = time.monotonic()
    lanes = [Lane(besieged(tmp_path / f"home-{number}", lease_s=LEASE_S), seed) for number in range(LANES)]
    with ThreadPoolExecutor(LANES) as pool:
        for done in [pool.submit(lane.run, range(number, CASES, LANES)) for number, lane in enumerate(lanes)]:
            done.result()
    survivors = [one for lane in lanes for one in lane.survivors]
    beside = [one for lane in lanes for one in lane.beside]
    found: Counter[str] = sum((lane.counts for lane in lanes), Counter())
    figures(
        "escape",
        seed=seed,
        seconds=round(time.monotonic() - began_s),
        cases=sum(found[end] for end in ENDS),
        survivors=len(survivors),
        side_by_side=len(beside),
        **{name: found[name] for name in sorted(found)},
    )
    assert survivors == []
    assert beside == []
