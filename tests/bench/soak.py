"""The soak: one node under mixed load for half an hour, watched for what grows, and for what ends as it should not.

    python -m tests.bench.soak [--minutes 30] [--every 5] [--dir DIR] [--json FILE]

``soak_load`` says what the load is, ``soak_watch`` what is looked at and what counts as flat. Retention is on, workers
idle out after 2 s and are fewer than there are scopes. Ends with status 1 if anything grows, a run ended otherwise than
it had to, or something is left over at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import report, soak_watch
from tests.bench.__main__ import bench_folder
from tests.bench.figures import deadline_is_a_loss
from tests.bench.homes import reading
from tests.bench.soak_load import ENDS_WITHIN_S, TURNS, Account, listen, work
from tests.worlds.harness import NodeProcess, Sandbox, make_sandbox

SETTINGS = {
    "CIS_MAX_WORKERS": "6",
    "CIS_IDLE_TIMEOUT": "2s",
    "CIS_GRACE": "2s",
    "CIS_MAX_RUNS": str(soak_watch.KEPT_OF_EACH),
    "CIS_MAX_AGE": "5m",
    "CIS_PRUNE_EVERY": "5s",
}
LEFT_OVER = (
    "SELECT 'run ' || run_id || ' is ' || status FROM dag_runs WHERE finished_at_us IS NULL"
    " UNION ALL SELECT 'an attempt of ' || run_id || ' runs' FROM task_executions WHERE status = 'running'"
    " UNION ALL SELECT 'the queue still has ' || run_id FROM worker_queue"
)
LOG_CHARACTERS = 200_000  # of the node, kept where something went wrong
LIVES = "SELECT sum(epoch) FROM workers"  # each start of a worker takes the next epoch


def main() -> int:
    """Load, watch, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description="half an hour of mixed load")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks (5)")
    parser.add_argument("--dir", type=Path, default=Path.home() / ".cache", help="where the home lies (~/.cache)")
    parser.add_argument("--json", type=Path, help="write all samples and verdicts")
    options = parser.parse_args()
    account, samples = Account(), list[soak_watch.Sample]()
    with bench_folder(options.dir) as folder, deadline_is_a_loss("soak"):
        sandbox = make_sandbox(folder)
        with sandbox.node(**SETTINGS) as node:
            _load_and_watch(sandbox, node, account, samples, seconds=options.minutes * 60, every_s=options.every)
        account.wrong += [row[0] for row in sandbox.rows(LEFT_OVER)]
        done = sandbox.cis("db", "check", timeout_s=600)
        if done.returncode:
            account.wrong.append(f"cis db check: {done.stdout[-500:]}")
        if account.wrong:
            account.said = sandbox.node_log()[-LOG_CHARACTERS:]
        lives = int(sandbox.rows(LIVES)[0][0])
    verdicts = soak_watch.judge(samples)
    _print(verdicts, account, lives=lives, looks=len(samples))
    if options.json:
        about = report.about_here(full=options.minutes >= 30, seconds=samples[-1].at_s, append_ms=0.0)
        _write(options.json, about, verdicts, account, samples, lives=lives)
    return 1 if account.wrong or any(each.passes is False for each in verdicts) else 0


def _load_and_watch(
    sandbox: Sandbox,
    node: NodeProcess,
    account: Account,
    samples: list[soak_watch.Sample],
    *,
    seconds: float,
    every_s: float,
) -> None:
    over = threading.Event()
    people = [
        threading.Thread(target=work, args=(node, turn, pause_s, over, account), name=turn.__name__, daemon=True)
        for turn, pause_s in TURNS.items()
    ]
    people.append(threading.Thread(target=listen, args=(node, over, account), name="stream", daemon=True))

    def look() -> None:
        samples.append(soak_watch.look(sandbox, database, node.process.pid, began_s=began_s, turns=account.turns()))

    began_s = time.monotonic()
    with reading(sandbox) as database:
        for person in people:
            person.start()
        try:
            while time.monotonic() < began_s + seconds and people[-1].is_alive():
                people[-1].join(every_s)  # the listener, who ends before the soak only with a fault
                look()
                if len(samples) % 12 == 0:
                    print(f"  {samples[-1]}", flush=True)
        finally:
            over.set()
            for person in people:
                person.join(ENDS_WITHIN_S + 30)
    account.wrong += [f"{person.name} does not come to an end" for person in people if person.is_alive()]


def _print(verdicts: Sequence[soak_watch.Verdict], account: Account, *, lives: int, looks: int) -> None:
    turns = ", ".join(f"{count:,} {kind}" for kind, count in sorted(account.ended.items()))
    print(f"turns: {turns}; {account.events:,} events heard, {lives} starts of workers, {looks} looks")
    print(f"  {'':14}{'first third':>12}{'last third':>12}{'highest':>12}{'an hour':>10}   bar")
    words = {True: "yes", False: "NO", None: "(too short to tell)"}
    for each in verdicts:
        figures = f"{each.first:12,.1f}{each.last:12,.1f}{each.highest:12,.1f}{each.a_hour:+10,.1f}"
        print(f"  {each.what:14}{figures}   {each.bar}: {words[each.passes]}")
    print("\n".join(f"WRONG: {fault}" for fault in account.wrong[:20]) or "every run ended as it had to")


def _write(
    path: Path,
    about: dict[str, object],
    verdicts: Sequence[soak_watch.Verdict],
    account: Account,
    samples: Sequence[soak_watch.Sample],
    *,
    lives: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "about": about,
        "settings": SETTINGS,
        "turns": dict(account.ended),
        "events": account.events,
        "starts_of_workers": lives,
        "wrong": account.wrong,
        "node_log": account.said.splitlines(),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "samples": soak_watch.as_rows(samples),
    }
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
