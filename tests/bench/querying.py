"""The case ``query``: what commands and the API answer within, on a database of 1,000,000 runs.

Each round measures ``python -c pass`` and each command as whole processes, one after the other, so that other load falls
on all of them. The API is asked over one connection that is kept, all requests in turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.figures import Figure, LostError, Plan, Result, percentile
from tests.bench.history import KEEP_ALL, LARGEST, WIDE, take_or_make
from tests.bench.homes import Client, connected, reading, value_of
from tests.bench.limit import command_ms, python_ms
from tests.worlds.harness import Sandbox

COMMAND_MS = 60.0
PYTHONS = 6.0  # where the machine is slower: a command may take as long as so many of ``python -c pass``
API_MS = 10.0
FAILED = "status=failed"
SCOPE = "scope=project:proj-p0"
COMMANDS: Mapping[str, tuple[tuple[str, ...], str]] = {  # and a word that each has to say
    "cis dag list": (("dag", "list"), "completed"),
    "cis dag list --status failed": (("dag", "list", "--status", "failed"), "failed"),
    "cis dag list --scope project:proj-p0": (("dag", "list", "--scope", "project:proj-p0"), "proj-p0-job"),
    "cis dag status": (("dag", "status", LARGEST), "completed"),
    "cis dag logs": (("dag", "logs", LARGEST), "hello from here"),
}


def query(plan: Plan) -> Result:
    """Measure on 1,000,000 runs (shorter: 50,000); the node is there, and idle."""
    count = plan.size(50_000, 1_000_000)
    sandbox = plan.sandbox("query")
    cache = plan.folder.parent / f"cis-bench-kept-{count}" if plan.keep else None
    take_or_make(sandbox, count, cache)
    with sandbox.node(**KEEP_ALL) as node:
        figures = command_figures(sandbox, rounds=plan.rounds_or(10, 20))
        with connected(node) as client:
            figures += _api_figures(sandbox, client, rounds=plan.rounds_or(200, 1000))
    return Result(figures)


def command_figures(sandbox: Sandbox, *, rounds: int) -> list[Figure]:
    """Measure each command beside a bare interpreter, after it was looked at what each of them says."""
    for arguments, word in COMMANDS.values():
        said = sandbox.cis(*arguments)
        if word not in said.stdout:
            raise LostError(f"cis {' '.join(arguments)} does not say {word}: {said.stdout[:300]}{said.stderr[-300:]}")
    cis = str(Path(sys.executable).with_name("cis"))
    bare: list[float] = []
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        bare.append(python_ms())
        for name, (arguments, _word) in COMMANDS.items():
            took[name].append(command_ms([cis, *arguments], dict(sandbox.env)))
    python = Figure(case="query", what="bare python -c pass", unit="ms", values=tuple(bare))
    bar = max(COMMAND_MS, PYTHONS * python.median)
    return [*(_figure(name, times, bar) for name, times in took.items()), python]


def _api_figures(sandbox: Sandbox, client: Client, *, rounds: int) -> list[Figure]:
    paths = _paths(sandbox, client)
    for name, path in paths.items():
        if b'"items":[]' in client.get_bytes(path):
            raise LostError(f"{name} finds nothing")
    took: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 5):
        for name, path in paths.items():
            began_s = time.perf_counter()
            client.get_bytes(path)
            if number >= 5:  # those before find nothing in memory
                took[name].append((time.perf_counter() - began_s) * 1000)
    return [_figure(f"{name}, p99", [percentile(times, 99)], API_MS, f"of {rounds}") for name, times in took.items()]


def _paths(sandbox: Sandbox, client: Client) -> dict[str, str]:
    """Return what is asked for, by what a reader calls it."""
    runs = "/api/v1/runs"
    with reading(sandbox) as database:
        middle = "SELECT run_id FROM dag_runs WHERE run_id > ? ORDER BY run_id LIMIT 1"
        first, last = (value_of(database, f"SELECT {edge}(run_id) FROM dag_runs") for edge in ("min", "max"))  # noqa: S608 - constants
        halfway = (int(first[:8], 16) + int(last[:8], 16)) // 2
        old = value_of(database, middle, (f"{halfway:08x}",))
        newest = "SELECT max(run_id) FROM dag_runs WHERE dag_id = ? AND status = 'completed'"
        wide, single = (value_of(database, newest, (dag_id,)) for dag_id in (WIDE, LARGEST))
    cursor = client.get(f"{runs}?{FAILED}")["next_cursor"]
    filters = (FAILED, SCOPE, f"{SCOPE}&{FAILED}", f"dag_id={LARGEST}", f"dag_id={LARGEST}&{FAILED}")
    return {
        "GET /runs": runs,
        **{f"GET /runs?{chosen}": f"{runs}?{chosen}" for chosen in filters},
        f"GET /runs?{FAILED}, second page": f"{runs}?{FAILED}&cursor={cursor}",
        "GET /runs/ID, of one task": f"{runs}/{single}",
        "GET /runs/ID, from the middle": f"{runs}/{old}",
        "GET /runs/ID, of 100 tasks": f"{runs}/{wide}",
        "GET /runs/ID/logs": f"{runs}/{single}/logs",
        "GET /runs/ID/logs, files of long ago": f"{runs}/{old}/logs",
        f"GET /dags/{LARGEST}": f"/api/v1/dags/{LARGEST}",
    }


def _figure(what: str, times: list[float], at_most: float, note: str = "") -> Figure:
    return Figure(case="query", what=what, unit="ms", values=tuple(times), at_most=at_most, note=note)
