"""The named outputs of a task: the file at ``CIS_OUTPUT``, lines of ``name=value``.

What one task may give is bounded, and so is what all tasks of a run give together: a run is read, shown and sent whole.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cis.engine.shortage import shortage_of
from cis.errors import LaunchError
from cis.model.masking import masked

MAX_OUTPUT_BYTES = 1 << 20
MAX_RUN_OUTPUT_BYTES = 16 << 20  # as much as a document, and as a message to another node
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def take_outputs(path: str, *, mask: Sequence[bytes] = (), keep: bool = False) -> Mapping[str, str]:
    """Return what a task wrote to its ``CIS_OUTPUT``, and remove the file, or *keep* it; empty when it wrote nothing.

    Blank lines are skipped, the last value of a name counts, and a value is all that follows the first ``=``. What
    *mask* names (``cis.model.secret_forms``) becomes ``***``.

    Raises:
        LaunchError: a line is no ``name=value``, the file is over 1 MiB, is no file at all, or cannot be read.
    """
    try:
        data = _read(path, keep=keep)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if shortage_of(error) is None:
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
        if equals and name.strip() and not is_output_name(name):
            raise LaunchError(
                f"CIS_OUTPUT line {number}: {name[:80]!r} is not a name of an output; use ASCII letters, digits and '_',"
                " not a digit first"
            )
        if not equals or not is_output_name(name):
            raise LaunchError(f"CIS_OUTPUT line {number} is not name=value: {text[:80]!r}")
        outputs[name] = value
    return outputs


def is_output_name(name: object) -> bool:
    """Whether a task may name an output so."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def size_of(outputs: Mapping[str, str]) -> int:
    """Return how many bytes of UTF-8 outputs are, names and values."""
    texts = (str(text) for pair in outputs.items() for text in pair)  # a stored row may hold anything
    return sum(len(text) if text.isascii() else len(text.encode(errors="replace")) for text in texts)


def no_room(size: int, kept: int) -> str | None:
    """Return why outputs of *size* bytes cannot be kept beside the *kept* bytes of their run; None when they can."""
    if size + kept <= MAX_RUN_OUTPUT_BYTES:
        return None
    return (
        f"its outputs have {size:,} bytes, and its run keeps {kept:,} of other tasks; {MAX_RUN_OUTPUT_BYTES:,} is the"
        " limit for all tasks of a run: write large values to files, and output their paths"
    )


def forget_outputs(path: str) -> None:
    """Remove the file, if there is one; it may hold secrets, as the task wrote them."""
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - a plain string, as all names of these files


def _read(path: str, *, keep: bool) -> bytes:
    """Return a little more of the file than it may hold; unless *keep*, remove what is in its place (but a folder).

    Never waits: what a task put there may be a FIFO that nobody writes to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LaunchError("CIS_OUTPUT is not a file any more; write lines of name=value to it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_OUTPUT_BYTES + 1)
    finally:
        os.close(descriptor)
        if not keep:
            forget_outputs(path)
