"""Removing the files of runs, and nothing else, whatever somebody has put there: log folders, and outputs left behind.

No name is followed: a folder that is a symbolic link is left alone, a file that is one goes without what it points
to. Only files that are named as attempts' files are go; a folder that holds anything besides stays.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from cis.engine.logfiles import LIVE, OUTPUTS, WORKERS
from cis.model.ids import id_fault

log = logging.getLogger(__name__)

FILES_AT_ONCE = 2000
_FILE = re.compile(r"[0-9]+\.[0-9]+\.(out|err|outputs)")  # outputs lay there before they had a folder for all
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
    """Give descriptors of *root* and of the folder of that name in it, neither of them behind a link. Raises OSError."""
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
