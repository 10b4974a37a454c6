"""The named outputs of a task: the file at ``CIS_OUTPUT``, lines of ``name=value``."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cis.errors import LaunchError
from cis.model.masking import masked

MAX_OUTPUT_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def take_outputs(path: str, *, mask: Sequence[bytes] = ()) -> Mapping[str, str]:
    """Return what a task wrote to its ``CIS_OUTPUT``, and remove the file; empty when it wrote nothing.

    Blank lines are skipped, the last value of a name counts, and a value is all that follows the first ``=``. What
    *mask* names (``cis.model.secret_forms``) becomes ``***``.

    Raises:
        LaunchError: a line is no ``name=value``, the file is over 1 MiB, is no file at all, or cannot be read.
    """
    try:
        data = _read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        forget_outputs(path)
        raise LaunchError(f"CIS_OUTPUT cannot be read: {error.strerror}") from error
    if len(data) > MAX_OUTPUT_BYTES:
        raise LaunchError("CIS_OUTPUT holds more than 1 MiB; write a file and output its path")
    if mask:
        data = masked(data, mask)
    outputs: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        text = line.removesuffix("\r")
        if not text.strip():
            continue
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise LaunchError(f"CIS_OUTPUT line {number} is not name=value: {text[:80]!r}")
        outputs[name] = value
    return outputs


def forget_outputs(path: str) -> None:
    """Remove the file, if there is one; it may hold secrets, as the task wrote them."""
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - a plain string, as all names of these files


def _read(path: str) -> bytes:
    """Return a little more of the file than it may hold, and remove it, or whatever is in its place (but a folder).

    Never waits: what a task put there may be a FIFO that nobody writes to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LaunchError("CIS_OUTPUT is no file any more; write lines of name=value to it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_OUTPUT_BYTES + 1)
    finally:
        os.close(descriptor)
        forget_outputs(path)
