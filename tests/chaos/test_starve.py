"""One scope floods its node in every way it can; another runs a task each second, and each of them starts in time.

The flood is one kind after the other, and what came before stays: DAGs as large as may be, thousands of small ones, DAGs in DAGs,
runs that only wait, outputs, logs. What of it is refused (429, 503, 422) is refused; nothing else may happen to it.
How long each kind of transaction held the write lock meanwhile is noted from outside (``tests/chaos/lockwatch``).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.battery import figures, size
from tests.worlds.harness import NodeProcess, Sandbox, make_sandbox
from tests.worlds.waiting import wait_for

SECONDS = size(10, 600)
TASKS = size(20_000, 100_000)
BAR_S = 2.0
SENDERS = 2
MOST_ROWS = 20_000  # that one transaction may change
REFUSED = (422, 429, 503)
LOCKWATCH = Path(__file__).parent / "lockwatch"


def dag(name: str, *tasks: dict[str, Any], scope: str = "project:flood", **more: Any) -> bytes:
    listed = [{"id": f"t{number}", **task} for number, task in enumerate(tasks)]
    return json.dumps({"dag_id": name, "scope": scope, "tasks": listed, **more}).encode()


def nested(depth: int) -> dict[str, Any]:
    """Return a task that is a DAG of ten such tasks, so deep."""
    if not depth:
        return {"command": "true"}
    inner = json.loads(dag(f"deep{depth}", *(nested(depth - 1) for _ in range(10))))
    return {"skill": "dag", "params": {"document": inner}}


def floods() -> dict[str, bytes]:
    """Return what is handed in again and again, by the kind of flood."""
    waits = {"command": "false", "max_retries": 100, "retry_delay": 3600}
    child = {"skill": "dag", "params": {"document": json.loads(dag("sleeps", {"command": "sleep 3600"}))}}
    outputs = {"command": 'head -c 1000000 /dev/zero | tr "\\\\0" x | sed "s/^/a=/" > "$CIS_OUTPUT"'}
    logs = {"command": "head -c 30000000 /dev/urandom | od -c"}
    return {
        "size": dag("large", *({"command": "true"} for _ in range(TASKS))),
        "number": dag("small", {"command": "true"}),
        "depth": dag("deep", *(nested(2) for _ in range(10))),
        "waiting": dag("waits", *(waits for _ in range(50)), child),
        "outputs": dag("outputs", *(outputs for _ in range(20))),
        "logs": dag("logs", *(logs for _ in range(20))),
    }


@dataclass(slots=True)
class Steady:
    """The scope that runs a task each second, and how long each took from the request to its process."""

    node: NodeProcess
    marks: Path
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def once(self, kind: str) -> None:
        mark = self.marks / str(next(self._numbers))
        document = dag("steady", {"command": f"date +%s.%N > {mark}.new; mv {mark}.new {mark}"}, scope="project:steady")
        began_s = time.time()
        answer = self.node.call(
            "POST", "/api/v1/dag/execute", body=document, headers={"Content-Type": "application/json"}
        )
        assert answer.status == 202, f"{answer.status} {answer.body}"
        wait_for(mark.exists, timeout_s=60, what=f"a task of the steady scope, while the other floods by {kind}")
        self.latencies[kind].append(float(mark.read_text()) - began_s)


def flood(node: NodeProcess, document: bytes, over: threading.Event, answers: Counter[int]) -> None:
    """Hand a document in until it is over; a refusal is answered by a pause."""
    while not over.is_set():
        answer = node.call("POST", "/api/v1/dag/execute", body=document, headers={"Content-Type": "application/json"})
        assert answer.status == 202 or answer.status in REFUSED, f"{answer.status} {answer.body}"
        answers[answer.status] += 1
        if answer.status in REFUSED:
            over.wait(0.2)


def flooded(steady: Steady, kind: str, document: bytes, *, seconds: float) -> Counter[int]:
    """Flood for so long while a task is run each second; return how the flood was answered."""
    over, answers = threading.Event(), Counter[int]()
    with ThreadPoolExecutor(SENDERS) as senders:
        sending = [senders.submit(flood, steady.node, document, over, answers) for _ in range(SENDERS)]
        try:
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                next_s = time.monotonic() + min(1.0, seconds / 2)
                steady.once(kind)
                over.wait(max(0.0, next_s - time.monotonic()))
        finally:
            over.set()
        for each in sending:
            each.result(60)
    return answers


def held(folder: Path) -> dict[str, list[tuple[float, int]]]:
    """Return, by kind of transaction, for how many milliseconds the lock was held, and how many rows were changed."""
    found = defaultdict(list)
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            kind, us, rows = line.split("\t")
            found[kind].append((int(us) / 1000, int(rows)))
    return found


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def tell(transactions: dict[str, list[tuple[float, int]]], say: Callable[[str], None]) -> None:
    """Say as a table how long each kind of transaction held the write lock."""
    say("| transaction | how many | p99 ms | longest ms | rows at most |\n| --- | --- | --- | --- | --- |")
    for kind, each in sorted(transactions.items(), key=lambda item: -max(item[1])[0]):
        times = [ms for ms, _ in each]
        most = max(rows for _, rows in each)
        say(f"| `{kind}` | {len(each):,} | {percentile(times, 0.99):.1f} | {max(times):.1f} | {most:,} |")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return make_sandbox(tmp_path)


@pytest.mark.timeout(SECONDS * 2 + 240)
def test_a_scope_that_floods_its_node_in_every_way_keeps_no_other_from_starting(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    times, marks = tmp_path / "locks", tmp_path / "marks"
    times.mkdir()
    marks.mkdir()
    kinds = floods()
    answers: Counter[int] = Counter()
    with sandbox.node(PYTHONPATH=str(LOCKWATCH), CIS_LOCK_TIMES=str(times)) as node:
        steady = Steady(node, marks)
        steady.once("nothing")
        steady.latencies.clear()
        for kind, document in kinds.items():
            answers += flooded(steady, kind, document, seconds=SECONDS / len(kinds))
        worst = {kind: max(found) for kind, found in steady.latencies.items()}
    transactions = held(times)
    tell(transactions, print)
    figures(
        "starve",
        seconds=SECONDS,
        tasks=sum(map(len, steady.latencies.values())),
        accepted=answers[202],
        refused=sum(answers[status] for status in REFUSED),
        **{f"worst_{kind}_s": round(latency, 2) for kind, latency in worst.items()},
        longest_lock_ms=round(max(ms for each in transactions.values() for ms, _ in each), 1),
    )

    assert max(worst.values()) < BAR_S, worst
    assert max(rows for each in transactions.values() for _, rows in each) <= MOST_ROWS
