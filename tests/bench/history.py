"""A home with a long history: some hundred DAGs are really run, then their rows are copied into the past.

So each row is one that the product wrote, whatever its columns are; only its times and its run's id are others. The
real runs stay the newest of their DAGs, and have their log files; of the copies, the last lines are in the database.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from tests.bench.documents import Document, one
from tests.bench.figures import LostError
from tests.bench.homes import connected, reading, run_ended, value_of
from tests.worlds.harness import NodeProcess, Sandbox

KEEP_ALL = {"CIS_MAX_RUNS": "all", "CIS_MAX_LOG_AGE": "all", "CIS_PRUNE_EVERY": "1d"}
LARGEST, WIDE = "proj-p0-job0", "proj-p1-wide"
SCOPES = ("proj-p0", "proj-p1", "proj-p2", "proj-p3", "user-u0", "user-u1", "backup", "job")
DAGS_OF_A_SCOPE = 30
WIDTH = 100  # tasks of the one DAG that has several
STEP_US = 7_000_000  # between two runs: a million of them are eleven weeks
BATCH = 20_000
FAILED_PART, WIDE_PART = 0.03, 0.002
TABLES = ("dag_runs", "run_tasks", "task_executions")

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """The rows of one real run in each of the TABLES, and when it was made."""

    created_us: int
    rows: tuple[list[Row], ...]


def make_history(sandbox: Sandbox, count: int) -> None:
    """Run a few hundred DAGs, and copy their rows until there are *count* runs; then look for damage.

    Raises:
        LostError: ``cis db check`` found some.
    """
    with sandbox.node(**KEEP_ALL, CIS_MAX_WORKERS=str(len(SCOPES))) as node:
        _run_all(sandbox, node)
    _copy_all(sandbox.home / "cis.db", count)
    done = sandbox.cis("db", "check", timeout_s=600)
    if done.returncode:
        raise LostError(f"cis db check: {done.stdout[-500:]}")


def take_or_make(sandbox: Sandbox, count: int, cache: Path | None) -> None:
    """Copy the home that lies in *cache*; if there is none, make it, and leave a copy there."""
    if cache is not None and cache.is_dir():
        shutil.copytree(cache, sandbox.home)
    else:
        make_history(sandbox, count)
        if cache is not None:
            _keep(sandbox.home, cache)
    with (sandbox.home / "cis.db").open("rb") as file:
        os.fsync(file.fileno())  # so that nothing of it is on its way to the disk while others are measured


def _keep(home: Path, cache: Path) -> None:
    half = cache.with_name(f"{cache.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(home, half, ignore=shutil.ignore_patterns("*.wake"))  # pipes, made anew when they are needed
    half.rename(cache)


def _run_all(sandbox: Sandbox, node: NodeProcess) -> None:
    """Run each DAG twice: once so that it fails, then so that it completes."""
    with connected(node) as client, reading(sandbox) as database:
        for document in _documents():
            run_ended(database, client.execute(document), timeout_s=60)
        wanted = len(SCOPES) * DAGS_OF_A_SCOPE
        failed = value_of(database, "SELECT count(*) FROM dag_runs WHERE status = 'failed'")
        completed = value_of(database, "SELECT count(*) FROM dag_runs WHERE status = 'completed'")
    if (failed, completed) != (wanted, wanted + 1):
        raise LostError(f"{failed} runs failed and {completed} completed, not {wanted} and {wanted + 1}")


def _documents() -> Iterator[Document]:
    for scope in SCOPES:
        for number in range(DAGS_OF_A_SCOPE):
            for command in ("echo hello from here; exit 1", "echo hello from here"):
                yield one(f"{scope}-job{number}", command)
    tasks = [{"id": f"t{number}", "command": f"echo {number}"} for number in range(WIDTH)]
    yield {"dag_id": WIDE, "tasks": tasks}


def _copy_all(path: Path, count: int) -> None:
    """Add copies, without a thought for power cuts: who is interrupted begins anew."""
    database = apsw.Connection(str(path))
    try:
        database.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")
        indexes = list(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))
        with database:
            for name, _ in indexes:
                database.execute(f"DROP INDEX {name}")
            _insert_copies(database, count - value_of(database, "SELECT count(*) FROM dag_runs"))
            for _, sql in indexes:  # faster at the end than row by row
                database.execute(sql)
        database.execute("PRAGMA journal_mode = WAL")
    finally:
        database.close()


def _insert_copies(database: apsw.Connection, count: int) -> None:
    columns = [[str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")] for table in TABLES]
    inserts = [
        f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - constants
        for table, names in zip(TABLES, columns, strict=True)
    ]
    first_us = value_of(database, "SELECT min(created_at_us) FROM dag_runs")
    chance = random.Random(5)  # noqa: S311 - the same each time
    pending: list[list[Row]] = [[] for _ in TABLES]
    for number, pattern in enumerate(_chosen(database, count, chance)):
        at_us = first_us - (count - number) * STEP_US
        run_id, shift_us = _id_at(at_us, chance), at_us - pattern.created_us
        for rows, names, into in zip(pattern.rows, columns, pending, strict=True):
            into += [_moved(row, names, run_id, shift_us) for row in rows]
        if len(pending[0]) == BATCH or number == count - 1:
            for sql, rows in zip(inserts, pending, strict=True):
                database.executemany(sql, rows)
                rows.clear()


def _chosen(database: apsw.Connection, count: int, chance: random.Random) -> Iterator[Pattern]:
    """Choose whose copy comes next: a tenth of all is of one DAG, the others are the rarer the later they stand."""
    found = list(database.execute("SELECT run_id, dag_id, status, created_at_us FROM dag_runs ORDER BY run_id"))
    place = {dag_id: number for number, dag_id in enumerate(dict.fromkeys(row[1] for row in found))}
    patterns, weights = [], []
    for run_id, dag_id, status, created_us in found:
        rows = tuple(list(database.execute(_of_run(table), (run_id,))) for table in TABLES)
        patterns.append(Pattern(created_us, rows))
        share = FAILED_PART if status == "failed" else 1 - FAILED_PART
        weights.append(0.0 if dag_id == WIDE else share * (0.1 if dag_id == LARGEST else 1 / (50 + place[dag_id])))
    total = sum(weights)
    weights[-1] = total * WIDE_PART  # the wide one was run last
    yield from chance.choices(patterns, weights, k=count)


def _of_run(table: str) -> str:
    return f"SELECT * FROM {table} WHERE run_id = ?"  # noqa: S608 - constants


def _moved(row: Row, names: Sequence[str], run_id: str, shift_us: int) -> Row:
    return (
        run_id,
        *(
            value + shift_us if name.endswith("_at_us") and value is not None else value
            for name, value in zip(names[1:], row[1:], strict=True)
        ),
    )


def _id_at(at_us: int, chance: random.Random) -> str:
    """Return an id as the product would have made it at that time: a UUID of version 7."""
    milliseconds, rest = divmod(at_us, 1000)
    value = (milliseconds << 80) | (0x7 << 76) | ((rest * 4096 // 1000) << 64) | (0b10 << 62) | chance.getrandbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
