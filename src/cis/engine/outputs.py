"""The named outputs of a task: what it wrote to the file at ``CIS_OUTPUT``, and to its standard output if that is one.

The file holds lines of ``name=value``, several lines as ``name<<END`` up to a line ``END``, or one JSON object, whose
values keep their types; what is written by lines is text.

What one task may give is bounded, and so is what all tasks of a run give together: a run is read, shown and sent whole.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from cis.engine.shortage import shortage_of
from cis.errors import LaunchError
from cis.model.dag import Json
from cis.model.masking import masked
from cis.store.records import TAIL_BYTES

MAX_OUTPUT_BYTES = 1 << 20
MAX_RUN_OUTPUT_BYTES = 16 << 20  # as much as a document, and as a message to another node
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BEGINNING = re.compile(r"(.*?)(=|<<)(.*)", re.DOTALL)
_BLOCK = "a value of several lines begins with name<<END and ends with a line END"
_NO_NAME = "is not a name of an output; use ASCII letters, digits and '_', not a digit first"


def take_outputs(path: str, *, mask: Sequence[bytes] = (), keep: bool = False) -> Mapping[str, Json]:
    """Return what a task wrote to its ``CIS_OUTPUT``, and remove the file, or *keep* it; empty when it wrote nothing.

    What *mask* names (``cis.model.secret_forms``) becomes ``***``.

    Raises:
        LaunchError: it is no outputs, the file is over 1 MiB, is no file at all, or cannot be read.
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
    if not data:
        return {}
    text = (masked(data, mask) if mask else data).decode("utf-8", "replace")
    return _of_json(text) if text.lstrip().startswith("{") else _of_lines(text)


def _of_json(text: str) -> Mapping[str, Json]:
    from cis.model.params import json_fault, read_json  # noqa: PLC0415 - few tasks write JSON

    try:
        outputs: dict[str, Json] = read_json(text)
    except ValueError as error:
        raise LaunchError(f"CIS_OUTPUT begins like a JSON object, and is not one: {error}") from error
    for name, value in outputs.items():
        if not is_output_name(name):
            raise LaunchError(f"CIS_OUTPUT: {name[:80]!r} {_NO_NAME}")
        if (why := json_fault(value)) is not None:
            raise LaunchError(f"CIS_OUTPUT: the value of {name} {why}")
    return outputs


def _of_lines(text: str) -> Mapping[str, Json]:
    """Read lines: blank ones are skipped, the last value of a name counts, a value is all that follows the first ``=``."""
    outputs: dict[str, Json] = {}
    lines = enumerate(text.split("\n"), 1)
    for number, line in lines:
        shown = line.removesuffix("\r")
        if not shown.strip():
            continue
        found = _BEGINNING.fullmatch(shown)
        name, sign, value = found.groups() if found else (shown, "", "")
        if sign and name.strip() and not is_output_name(name):
            raise LaunchError(f"CIS_OUTPUT line {number}: {name[:80]!r} {_NO_NAME}")
        if not sign or not is_output_name(name):
            raise LaunchError(f"CIS_OUTPUT line {number} is not name=value: {shown[:80]!r}; {_BLOCK}")
        outputs[name] = value if sign == "=" else _block(lines, value, name=name, number=number)
    return outputs


def _block(lines: Iterator[tuple[int, str]], end: str, *, name: str, number: int) -> str:
    block: list[str] = []
    for _, line in lines:
        if end and line.removesuffix("\r") == end:
            return "\n".join(block)
        block.append(line)
    raise LaunchError(f"CIS_OUTPUT line {number}: {name}<<{end[:80]} is not followed by a line {end[:80] or 'END'!r}")


def standard_output(path: str, *, tail: str, size: int) -> str:
    """Return what a task wrote to its standard output, trimmed: the log at *path*, of which *tail* is the end.

    Raises:
        LaunchError: it is over 1 MiB, or its log does not hold all of it.
    """
    if size > MAX_OUTPUT_BYTES:
        raise LaunchError(
            f"its standard output, which is to be an output, has {size:,} bytes; 1 MiB at most: write a file and output its path"
        )
    if size <= TAIL_BYTES:
        return tail.strip()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a plain string, as all names of these files
            data = file.read(MAX_OUTPUT_BYTES + 1)
    except OSError as error:
        raise LaunchError(f"its standard output cannot be read: {error.strerror}") from error
    if len(data) < size:
        raise LaunchError(
            "its log does not hold all of its standard output, which is to be an output; write less, or raise max_log under [worker]"
        )
    return data.decode("utf-8", "replace").strip()


def is_output_name(name: object) -> bool:
    """Whether a task may name an output so."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def size_of(outputs: Mapping[str, Json]) -> int:
    """Return how many bytes of UTF-8 outputs are, names and values, those that are no text as JSON."""
    texts = (text if isinstance(text, str) else json.dumps(text) for pair in outputs.items() for text in pair)
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
