"""Puts a backup in place of a database file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cis.errors import StoreDamagedError, StoreError, StoreNewerError
from cis.store.sqlite.connection import sync_folder
from cis.store.sqlite.store import SqliteStore, open_sqlite

_BESIDE = ("-wal", "-shm")


@dataclass(slots=True)
class Restoring:
    """A copy of a backup, open, and where the store that it takes the place of was kept (None: there was none)."""

    store: SqliteStore
    kept: Path | None = None


@contextmanager
def restoring(path: Path, backup: Path) -> Iterator[Restoring]:
    """Open a copy of *backup*, and when the block ends put it in place of *path*; see ``cis.store.restoring``."""
    fresh = path.with_name(f"{path.name}.restoring")
    try:
        _copy(backup, fresh)
        copied = Restoring(
            _open_copy(backup, fresh)
        )  # a copy, so that the backup stays as it is while this is migrated
        try:
            faults = copied.store.upkeep.faults()
            if faults:
                raise StoreError(f"{backup} is damaged: {faults[0]}; nothing was changed")
            yield copied
        finally:
            copied.store.close()
        copied.kept = _keep(path)
        _sync(fresh)
        sync_folder(path.parent)  # with the old one's copy, before the old one goes
        for suffix in _BESIDE:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        fresh.replace(path)
        sync_folder(path.parent)
    finally:
        _forget(fresh)


def _open_copy(backup: Path, fresh: Path) -> SqliteStore:
    """Open the copy of a backup. Raises StoreError, which names the backup, where it is none."""
    try:
        as_it_is = open_sqlite(fresh, as_it_is=True)
        try:
            ours = as_it_is.upkeep.schema().is_ours
        finally:
            as_it_is.close()
    except StoreNewerError as error:
        raise StoreNewerError(str(backup), schema=error.schema, known=error.known) from error
    except StoreDamagedError as error:
        raise StoreError(f"{backup} is not a backup, or a damaged one ({error.why}); nothing was changed") from error
    if not ours:
        raise StoreError(f"{backup} is not a database of CIS-DAG; nothing was changed")
    return open_sqlite(fresh)


def _keep(path: Path) -> Path | None:
    """Copy the database that is to be replaced, as it is where it is too damaged for anything else."""
    if not path.exists():
        return None
    kept = path.with_name(f"{path.name}.before-restore")
    _forget(kept)
    try:
        store = open_sqlite(path)
        try:
            store.upkeep.back_up(kept)
        finally:
            store.close()
    except StoreError:
        _forget(kept)
        _copy(path, kept)
    return kept


def _copy(source: Path, target: Path) -> None:
    """Copy a database file that nobody has open, with what its log has beyond it."""
    _forget(target)
    for suffix in ("", "-wal"):
        part = source.with_name(source.name + suffix)
        if part.exists():
            copy = target.with_name(target.name + suffix)
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            shutil.copyfile(part, copy)
            _sync(copy)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    for suffix in ("", *_BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
