"""Small private files that are whole or not there at all, whoever else writes them at the same moment."""

from __future__ import annotations

import os
import secrets
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
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Put a whole file, mode 0600, in place of the one at *path*."""
    _private(path, data).replace(path)


def _private(path: Path, data: bytes) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return fresh
