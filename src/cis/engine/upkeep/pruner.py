"""Forgets what is old: runs that are over with all that is theirs, files of attempts, and documents that nothing uses.

A run goes with the runs that its tasks started, deepest first, and only once all of them are over and nothing about
them is live (``cis.store.upkeep_port``). That is asked twice: for the family before anything of it goes, and for each
run in the transaction that deletes it. What was final stays final, so nothing that was let go becomes live again.

Rows go before files. Whoever dies in between leaves a folder without a run, which a later round finds and removes. A
run that is being deleted is still whole for whoever reruns it: ``rerun`` reads its tasks in one transaction, and tasks
go in one, with the run.

The work is done in steps, each a short transaction or a few files, so nobody waits for the database for long, and
whoever drives it may stop after any of them.

Only files that are named as attempts' files are removed, and no name is followed: a folder that is a symbolic link is
left alone, a file that is one goes without what it points to, and a folder that holds anything else stays.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cis.engine.accept.staging import FORGET_S
from cis.engine.logfiles import LIVE, OUTPUTS, WORKERS, LogFiles
from cis.model.ids import id_at, id_fault
from cis.store.port import Store
from cis.store.upkeep_port import EndedRun, Pruned, Pruning

log = logging.getLogger(__name__)

FILES_AT_ONCE = 2000
_FILE = re.compile(r"[0-9]+\.[0-9]+\.(out|err|outputs)")  # outputs lay there before they had a folder for all
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

TURN_S = 0.05  # a transaction takes no other run on after so long
RUNS_AT_ONCE = 100
ATTEMPTS_AT_ONCE = 2000
NAMES_AT_ONCE = 500
YOUNG_S = 60.0  # whoever waits for a run has to have seen its end before a newer one can push it out
ORPHAN_S = 86400.0
_OWN_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept: None is everything. ``max_runs`` is for each DAG; logs may go before their runs."""

    max_age_s: float | None = None
    max_runs: int | None = None
    max_log_age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutoff:
    """What a round goes by: the time that ages are counted from; with *aged* False nothing goes for its age alone."""

    now_us: int
    aged: bool = True

    def before_us(self, age_s: float | None) -> int | None:
        """Return the time before which something is older than *age_s*; None when no age counts."""
        return None if age_s is None or not self.aged else self.now_us - round(age_s * 1e6)


@dataclass(slots=True)
class Tally:
    """What has gone: runs, log folders, documents."""

    runs: int = 0
    folders: int = 0
    documents: int = 0


def expired_families(pruning: Pruning, keep: Retention, cutoff: Cutoff) -> Iterator[Sequence[str]]:
    """Yield each expired run with those of its tasks, deepest first, DAG after DAG; nothing is changed."""
    before_us, young_us = cutoff.before_us(keep.max_age_s), cutoff.now_us - round(YOUNG_S * 1e6)
    if before_us is None and keep.max_runs is None:
        return
    name = ""
    while names := pruning.ended_dags(after=name, limit=NAMES_AT_ONCE):
        for name in names:
            last: EndedRun | None = None
            while runs := pruning.expired_runs(
                name, before_us=before_us, keep=keep.max_runs, until_us=young_us, after=last, limit=RUNS_AT_ONCE
            ):
                for last in runs:
                    if family := pruning.family(last.run_id):
                        yield family


def expired_folders(pruning: Pruning, logfiles: LogFiles, keep: Retention, cutoff: Cutoff) -> Iterator[str | None]:
    """Yield each log folder whose run is over for too long, or is gone; None after each few that were looked at."""
    before_us, orphaned_us = cutoff.before_us(keep.max_log_age_s), cutoff.before_us(ORPHAN_S)
    folders = log_folders(logfiles.root)
    while some := dict(islice(folders, NAMES_AT_ONCE)):
        ends = pruning.ends(list(some))
        for name, changed_us in some.items():
            ended_us = ends.get(name)
            is_old = before_us is not None and ended_us is not None and ended_us < before_us
            is_lost = orphaned_us is not None and name not in ends and changed_us < orphaned_us
            if is_old or (is_lost and _OWN_RUN_ID.fullmatch(name)):
                yield name
        yield None


def expired_outputs(pruning: Pruning, logfiles: LogFiles, cutoff: Cutoff) -> Iterator[Sequence[str]]:
    """Yield the names of files for outputs that are left over: their run has ended, or has been gone for a day."""
    orphaned_us = cutoff.before_us(ORPHAN_S)
    files = outputs_left(logfiles.root)
    while some := list(islice(files, NAMES_AT_ONCE)):
        ends = pruning.ends([run_id for run_id, *_ in some])
        yield [
            name
            for run_id, name, changed_us in some
            if ends.get(run_id) is not None
            or (orphaned_us is not None and run_id not in ends and changed_us < orphaned_us)
        ]


class Pruner:
    """Does a round of forgetting, step by step. *elapsed_s* is a monotonic clock."""

    def __init__(self, store: Store, logfiles: LogFiles, keep: Retention, *, elapsed_s: Callable[[], float]) -> None:
        self._store = store
        self._logfiles = logfiles
        self._keep = keep
        self._elapsed_s = elapsed_s
        self.tally = Tally()

    def runs(self, cutoff: Cutoff) -> Iterator[None]:
        """Delete expired runs with their files; pause between two values as long as you like, or end there."""
        families = expired_families(self._store.pruning, self._keep, cutoff)
        doomed: deque[str] = deque()
        for family in families:
            doomed.extend(family)
            while len(doomed) >= RUNS_AT_ONCE:
                yield from self._delete(doomed)
        while doomed:
            yield from self._delete(doomed)

    def leftovers(self, cutoff: Cutoff) -> Iterator[None]:
        """Delete unused documents, tasks that nobody took up, old logs, files without a run; in steps, as ``runs``."""
        while unused := self._store.definitions.unused(limit=RUNS_AT_ONCE):
            with self._store.transaction():
                gone = self._store.definitions.drop(unused)
            self.tally.documents += gone
            yield
            if not gone:
                break  # all of them have come into use meanwhile; others wait for the next round
        before = id_at(cutoff.now_us - round(FORGET_S * 1e6))
        for run_id in self._store.staged.runs(after="", before=before, limit=RUNS_AT_ONCE):
            left = _OWN_RUN_ID.fullmatch(run_id) is not None
            while left:
                with self._store.transaction():
                    left = self._store.staged.drop(run_id, at_most=ATTEMPTS_AT_ONCE)
                yield
        for name in expired_folders(self._store.pruning, self._logfiles, self._keep, cutoff):
            if name is not None:
                yield from self._remove(name)
            yield
        for names in expired_outputs(self._store.pruning, self._logfiles, cutoff):
            remove_outputs(self._logfiles.root, names)
            yield

    def _delete(self, doomed: deque[str]) -> Iterator[None]:
        """Delete the first of *doomed* in one short transaction, then their files."""
        gone = []
        with self._store.transaction():
            end_s = self._elapsed_s() + TURN_S
            while doomed:
                state = self._store.pruning.prune(doomed[0], at_most=ATTEMPTS_AT_ONCE)
                if state is not Pruned.MORE:
                    run_id = doomed.popleft()
                    if state is Pruned.GONE:
                        gone.append(run_id)
                if self._elapsed_s() >= end_s:
                    break
        self.tally.runs += len(gone)
        yield
        for run_id in gone:
            yield from self._remove(run_id)

    def _remove(self, run_id: str) -> Iterator[None]:
        folder = self._logfiles.folder(run_id)
        if folder.is_dir():
            while not remove_logs(self._logfiles.root, run_id):
                yield
            self.tally.folders += not folder.exists()


def is_log_folder(name: str) -> bool:
    """Whether a folder of this name can be a run's."""
    return id_fault(name) is None and name != WORKERS


def log_folders(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the name of each folder that can be a run's, and when it was changed last, in microseconds."""
    try:
        entries = os.scandir(root)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                if is_log_folder(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name, _changed_us(entry)
            except FileNotFoundError:
                continue  # it went meanwhile


def remove_logs(root: Path, run_id: str) -> bool:
    """Remove up to ``FILES_AT_ONCE`` files of a run, and the folder with the last; return whether it is dealt with."""
    if not is_log_folder(run_id):
        return True
    try:
        return _empty(root, run_id)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("logs cannot be removed", extra={"run_id": run_id, "error": str(error)})
        return True  # the next round comes by again


def outputs_left(root: Path) -> Iterator[tuple[str, str, int]]:
    """Yield the run of each file for outputs, its name, and when it was changed last, in microseconds.

    Those of live attempts, of attempts whose worker was killed, and what was written after the end of a task.
    """
    try:
        with _opened(root, LIVE) as (_, folder), os.scandir(folder) as entries:
            for entry in entries:
                found = OUTPUTS.fullmatch(entry.name)
                try:
                    if found and id_fault(found[1]) is None and not entry.is_dir(follow_symlinks=False):
                        yield found[1], entry.name, _changed_us(entry)
                except FileNotFoundError:
                    continue  # it went meanwhile
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("what is left of outputs cannot be found", extra={"error": str(error)})


def remove_outputs(root: Path, names: Iterable[str]) -> None:
    """Remove files for outputs, named as ``outputs_left`` names them; one that cannot go holds up no other."""
    for name in names:
        try:
            with _opened(root, LIVE) as (_, folder):
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError as error:
            log.warning("outputs cannot be removed", extra={"file": name, "error": str(error)})


def _empty(root: Path, name: str) -> bool:
    with _opened(root, name) as (top, folder):
        with os.scandir(folder) as entries:
            doomed = list(islice((each.name for each in entries if _FILE.fullmatch(each.name)), FILES_AT_ONCE))
        for file in doomed:
            os.unlink(file, dir_fd=folder)
        if len(doomed) == FILES_AT_ONCE:
            return False
        os.rmdir(name, dir_fd=top)
        return True


@contextmanager
def _opened(root: Path, name: str) -> Iterator[tuple[int, int]]:
    """Give descriptors of *root* and of the folder of that name in it, neither behind a link. Raises OSError."""
    top = os.open(root, _FOLDER_FLAGS)
    try:
        folder = os.open(name, _FOLDER_FLAGS, dir_fd=top)
        try:
            yield top, folder
        finally:
            os.close(folder)
    finally:
        os.close(top)


def _changed_us(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_mtime_ns // 1000
