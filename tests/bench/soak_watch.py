"""What the soak looks at every few seconds, and what counts as flat and as bounded.

The first fifth of the time is a warm-up and does not count (a third, where all is shorter than ten minutes). Of the rest
the median of the first third is compared with the median of the last third: flat is what grew by no more than its
tolerance, a part of the first and something besides. What only has to be bounded may never pass its bar. How much
retention keeps depends on the load of the last minute, which the rest of the machine decides, too: so runs are counted
beyond what it may keep, and log folders beyond the runs.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import apsw

from cis.engine.upkeep.pruner import log_folders
from tests.bench.homes import LIVE_WORKERS, value_of
from tests.bench.memory import MEGABYTE, resident_mb
from tests.worlds.harness import Sandbox

LONG_S = 600.0
WAL_MB = 67.2  # the limit of 64 MiB that the product sets
KEPT_OF_EACH = 50  # runs of each DAG: what the node is told
YOUNG_S = 90.0  # what ended within the last minute stays whatever its number, and goes in one of the next turns
BEYOND = 100.0
STRAY_LOGS = 250.0  # rows go some hundred at a time, their folders after them
AUDIT_BYTES = 200  # of an entry of the audit log, at most: that is kept on purpose, so it may grow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look; sizes in megabytes (10^6 bytes). Of the workers, the one that has most."""

    at_s: float
    node_fds: int
    node_mb: float
    workers: int
    worker_fds: int
    worker_mb: float
    wal_mb: float
    database_mb: float
    file_mb: float
    turns: int
    dags: int
    runs: int
    stray_logs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one figure went: medians of the first and the last third after the warm-up, and the highest of all."""

    what: str
    first: float
    last: float
    highest: float
    a_hour: float
    bar: str
    passes: bool | None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much more the last third may be than the first."""

    part: float
    besides: float


FLAT: Mapping[str, Tolerance] = {
    "node_fds": Tolerance(0.1, 4),
    "node_mb": Tolerance(0.1, 5),
    "worker_fds": Tolerance(0.1, 8),
    "worker_mb": Tolerance(0.1, 5),
    "database_mb": Tolerance(0.25, 5),
}
NEEDS_LONG = ("database_mb",)  # before retention has anything to do, it grows


def look(sandbox: Sandbox, database: apsw.Connection, node_pid: int, *, began_s: float, turns: int) -> Sample:
    """Look once; *turns* is how many runs were begun and have ended."""
    pids = [int(row[1]) for row in database.execute(LIVE_WORKERS)]
    page, pages, free = (value_of(database, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    audit = value_of(database, "SELECT max(seq) FROM audit") or 0
    return Sample(
        at_s=round(time.monotonic() - began_s, 1),
        node_fds=_descriptors(node_pid),
        node_mb=resident_mb(node_pid),
        workers=len(pids),
        worker_fds=max(map(_descriptors, pids), default=0),
        worker_mb=max(map(resident_mb, pids), default=0.0),
        wal_mb=_size_mb(sandbox.home / "cis.db-wal"),
        database_mb=((pages - free) * page - audit * AUDIT_BYTES) / MEGABYTE,
        file_mb=_size_mb(sandbox.home / "cis.db"),
        turns=turns,
        dags=value_of(database, "SELECT count(DISTINCT dag_id) FROM dag_runs"),
        runs=value_of(database, "SELECT count(*) FROM dag_runs"),
        stray_logs=_strays(sandbox, database),
    )


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Return how each figure went."""
    return [
        *(_flat(samples, name, allowed) for name, allowed in FLAT.items()),
        _bounded(samples, "wal mb", [sample.wal_mb for sample in samples], WAL_MB),
        _bounded(samples, "runs beyond", [_beyond(samples, sample) for sample in samples], BEYOND),
        _bounded(samples, "logs without runs", [sample.stray_logs for sample in samples], STRAY_LOGS),
    ]


def as_rows(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Return the samples for JSON."""
    return [asdict(sample) for sample in samples]


def _flat(samples: Sequence[Sample], name: str, allowed: Tolerance) -> Verdict:
    first, last, a_hour = _course(samples, [float(getattr(sample, name)) for sample in samples])
    too_short = name in NEEDS_LONG and samples[-1].at_s < LONG_S
    return Verdict(
        what=name.replace("_", " "),
        first=first,
        last=last,
        highest=max(float(getattr(sample, name)) for sample in samples),
        a_hour=a_hour,
        bar=f"last ≤ first + {allowed.part:.0%} + {allowed.besides:g}",
        passes=None if too_short else last <= first * (1 + allowed.part) + allowed.besides,
    )


def _bounded(samples: Sequence[Sample], what: str, values: Sequence[float], bar: float) -> Verdict:
    first, last, a_hour = _course(samples, values)
    highest = max(values)
    always = f"always ≤ {bar:g}"
    return Verdict(what=what, first=first, last=last, highest=highest, a_hour=a_hour, bar=always, passes=highest <= bar)


def _strays(sandbox: Sandbox, database: apsw.Connection) -> int:
    """Return how many folders of logs there are whose run is gone."""
    folders = {name for name, _ in log_folders(sandbox.home / "logs")}
    return len(folders.difference(row[0] for row in database.execute("SELECT run_id FROM dag_runs")))


def _beyond(samples: Sequence[Sample], now: Sample) -> float:
    """Return how many runs there are beyond the newest of each DAG and those that are too young to go."""
    before = [sample.turns for sample in samples if sample.at_s <= now.at_s - YOUNG_S]
    young = now.turns - max(before, default=0)
    return now.runs - (KEPT_OF_EACH * now.dags + young)


def _course(samples: Sequence[Sample], values: Sequence[float]) -> tuple[float, float, float]:
    """Return the medians of first and last third after the warm-up, and the growth in an hour."""
    warm_s = samples[-1].at_s / (5 if samples[-1].at_s >= LONG_S else 3)
    counted = [(sample.at_s, value) for sample, value in zip(samples, values, strict=True) if sample.at_s >= warm_s]
    third = max(1, len(counted) // 3)
    first = statistics.median(value for _, value in counted[:third])
    last = statistics.median(value for _, value in counted[-third:])
    apart_s = (counted[-1][0] - counted[0][0]) * 2 / 3
    return first, last, (last - first) / apart_s * 3600 if apart_s else 0.0


def _descriptors(pid: int) -> int:
    try:
        return sum(1 for _ in os.scandir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has gone since


def _size_mb(path: Path) -> float:
    try:
        return path.stat().st_size / MEGABYTE
    except FileNotFoundError:
        return 0.0
