"""Small private files that are whole or not there at all, whoever else writes them at the same moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_once(path: Path, data: bytes) -> bool:
    """Make a whole file, mode 0600, appear at *path* unless one is there; return whether this one did."""
    if path.exists():
        return False
    fresh = _private(path, data)
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    _sync_folder(path.parent)
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Put a whole file, mode 0600, in place of the one at *path*."""
    _private(path, data).replace(path)
    _sync_folder(path.parent)


def _private(path: Path, data: bytes) -> Path:
    import secrets  # noqa: PLC0415 - 4 ms, and most commands write no such file

    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            written = 0
            while written < len(data):  # a disk that is nearly full takes a part
                written += file.write(data[written:])
            os.fsync(descriptor)
    except OSError as error:
        fresh.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    return fresh


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk: a token that was replaced must not come back with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
