"""Removing the files of runs, and nothing else, whatever somebody has put there: log folders, and outputs left behind.

No name is followed: a folder that is a symbolic link is left alone, a file that is one goes without what it points
to. Only files that are named as attempts' files are go; a folder that holds anything besides stays.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cis.model.ids import id_fault

log = logging.getLogger(__name__)

WORKERS = "workers"
FILES_AT_ONCE = 2000
_FILE = re.compile(r"[0-9]+\.[0-9]+\.(out|err|outputs)")
_OUTPUTS = re.compile(r"(.+)\.[0-9]+\.[0-9]+\.outputs")
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
                    yield entry.name, entry.stat(follow_symlinks=False).st_mtime_ns // 1000
            except FileNotFoundError:
                continue  # it went meanwhile


def outputs_left(live: Path, *, before_us: int) -> Iterator[tuple[str, str]]:
    """Yield the run and the name of each file for outputs that was changed last before *before_us*, in microseconds.

    Those of attempts whose worker was killed, and what was written after the end of a task.
    """
    try:
        entries = os.scandir(live)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            found = _OUTPUTS.fullmatch(entry.name)
            try:
                if found and entry.stat(follow_symlinks=False).st_mtime_ns // 1000 < before_us:
                    yield found[1], entry.name
            except FileNotFoundError:
                continue  # it went meanwhile


def remove_outputs(live: Path, name: str) -> None:
    """Remove one of them."""
    try:
        (live / name).unlink(missing_ok=True)
    except OSError as error:  # a folder, say: no task's file
        log.warning("outputs cannot be removed", extra={"file": name, "error": str(error)})


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


def _empty(root: Path, name: str) -> bool:
    top = os.open(root, _FOLDER_FLAGS)
    try:
        folder = os.open(name, _FOLDER_FLAGS, dir_fd=top)
        try:
            with os.scandir(folder) as entries:
                doomed = list(islice((each.name for each in entries if _FILE.fullmatch(each.name)), FILES_AT_ONCE))
            for file in doomed:
                os.unlink(file, dir_fd=folder)
        finally:
            os.close(folder)
        if len(doomed) == FILES_AT_ONCE:
            return False
        os.rmdir(name, dir_fd=top)
        return True
    finally:
        os.close(top)
