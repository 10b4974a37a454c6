"""The folder of a lasting attempt: how its guardian is found, asked and believed, by whichever worker comes next.

    run/attempts/<handle>/alive     a FIFO that the guardian holds open: whoever reads it sees whether it lives, and is woken by its end
                          orders    a FIFO that the guardian reads: each letter is an order (``END``, ``KILL``, ``DROP``)
                          begun     made once: by the guardian just before it starts the task, or by whoever found no guardian there
                          task      the task's process
                          ended     how the attempt ended, written before the guardian does (JSON, with a version)

A guardian has ``alive`` from its worker, open, from before its own first moment. So there is no time at which it is on
its way and cannot be seen. Who finds nobody makes ``begun``, and no guardian starts the task after that: one answer is
true for good. No number of a process tells who lives here, so none can be mistaken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cis.engine.ports import Exit, ProcessId, StrPath
from cis.engine.shortage import shortage_of

END, KILL, DROP, TOLD = b"t", b"k", b"x", b"s"
ALIVE, ORDERS, BEGUN, TASK, ENDED = "alive", "orders", "begun", "task", "ended"
VERSION = 1
MOST_BYTES = 1 << 20
MOST_LEFT = 1000
_FLAGS = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class NotUnderstoodError(ValueError):
    """The end of an attempt was written by a newer program; that one can read it."""


class AttemptFolders:
    """The folders of all lasting attempts of one home, by their handles."""

    def __init__(self, root: StrPath) -> None:
        self.root = os.fspath(root)

    def path(self, handle: str) -> str:
        """Return the folder of an attempt, which may not exist."""
        return os.path.join(self.root, handle)

    def handles(self) -> list[str]:
        """Return the handles of all attempts that have a folder."""
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []

    @contextmanager
    def made(self, handle: str) -> Iterator[tuple[int, int]]:
        """Make the folder, and give descriptors for the guardian: ``alive`` and ``orders``. With an error nothing is left of it.

        Raises:
            FileExistsError: this attempt was begun, or given up, before.
        """
        path = self.path(handle)
        Path(self.root).mkdir(mode=0o700, exist_ok=True)
        Path(path).mkdir(mode=0o700)
        descriptors: list[int] = []
        try:
            for name in (ALIVE, ORDERS):
                os.mkfifo(os.path.join(path, name), 0o600)
                descriptors.append(os.open(os.path.join(path, name), os.O_RDWR | _FLAGS))
            yield descriptors[0], descriptors[1]
        except BaseException:
            self.forget(handle)
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def watch(self, handle: str) -> int | None:
        """Return a descriptor that becomes readable when the guardian ends; None: there is none that lives.

        Raises:
            OSError: the machine is short of what finding it out takes.
        """
        try:
            descriptor = os.open(os.path.join(self.path(handle), ALIVE), os.O_RDONLY | _FLAGS)
        except OSError as error:
            if shortage_of(error) is not None:
                raise
            return None
        if held_open(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def lives(self, handle: str) -> bool:
        """Whether the guardian of an attempt lives. Raises OSError, as ``watch`` does."""
        descriptor = self.watch(handle)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def order(self, handle: str, letter: bytes) -> None:
        """Give the guardian an order; nobody hears it when it is gone."""
        with suppress(OSError):
            descriptor = os.open(os.path.join(self.path(handle), ORDERS), os.O_WRONLY | _FLAGS)
            try:
                os.write(descriptor, letter)
            finally:
                os.close(descriptor)

    def end(self, handle: str) -> None:
        """Have an attempt end, within its grace period; it counts as lost."""
        self.order(handle, END)

    def give_up(self, handle: str) -> bool:
        """See to it that nothing is started of this attempt any more; return whether nothing ever was.

        Raises:
            OSError: the machine is short of what that takes.
        """
        path = self.path(handle)
        for folder in (self.root, path):
            Path(folder).mkdir(mode=0o700, exist_ok=True)
        return make_begun(path)

    def ended(self, handle: str) -> Exit | None:
        """Return how an attempt ended, as its guardian wrote it; None when it wrote nothing.

        Raises:
            NotUnderstoodError: a newer program wrote it.
            ValueError: it cannot be read.
            OSError: the machine is short of what reading it takes.
        """
        told = self._read(handle, ENDED)
        return None if told is None else exit_of(handle, told)

    def process(self, handle: str, name: str = TASK) -> ProcessId | None:
        """Return the first process of the task (of ``BEGUN``, the guardian), if known. Raises OSError for a shortage."""
        try:
            told = self._read(handle, name)
        except ValueError:
            return None
        if not isinstance(told, Mapping) or not isinstance(told.get("pid"), int):
            return None
        started = told.get("started")
        return ProcessId(told["pid"], started if isinstance(started, str) else None)

    def forget(self, handle: str) -> None:
        """Remove the folder of an attempt of which nothing is wanted any more."""
        import shutil  # noqa: PLC0415 - a guardian does without

        shutil.rmtree(self.path(handle), ignore_errors=True)

    def _read(self, handle: str, name: str) -> Any:
        try:
            descriptor = os.open(os.path.join(self.path(handle), name), os.O_RDONLY | _FLAGS)
        except OSError as error:
            if shortage_of(error) is not None:
                raise
            return None
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return json.loads(data)


def held_open(alive: int) -> bool:
    """Whether somebody holds the other end of ``alive`` open."""
    try:
        while os.read(alive, 4096):  # whoever may open the folder may write into it
            pass
    except BlockingIOError:
        return True
    return False


def make_begun(path: str, *, said: bytes = b"") -> bool:
    """Make the file ``begun`` in the folder *path*; False: somebody has. Raises OSError."""
    try:
        descriptor = os.open(
            os.path.join(path, BEGUN), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except FileExistsError:
        return False
    try:
        os.write(descriptor, said)
    finally:
        os.close(descriptor)
    return True


def told_end(ended: Exit) -> bytes:
    """Return what a guardian writes of an end."""
    left = [list(one) for one in list(ended.left)[:MOST_LEFT]]
    told = {"version": VERSION} | ended._asdict() | {"left": left}
    del told["handle"]
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")


def exit_of(handle: str, told: Any) -> Exit:
    """Return the end that a guardian wrote. Raises ValueError (NotUnderstoodError for one of a newer program)."""
    if not isinstance(told, Mapping) or type(told.get("version")) is not int:
        raise ValueError("it is not a JSON object with a version")
    if told["version"] > VERSION:
        raise NotUnderstoodError(f"how it ended was written by a newer program (version {told['version']})")
    fields = {name: told[name] for name in Exit._fields if name in told}
    left = fields.pop("left", [])
    if not isinstance(left, list) or not all(_is_left(one) for one in left):
        raise ValueError("what it left running is not as it should be")
    if "exit_code" not in fields or any(not _fits(name, value) for name, value in fields.items()):
        raise ValueError("its fields are not as they should be")
    return Exit(handle=handle, left=[(pid, started) for pid, started in left], **fields)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "exit_code": (int, type(None)),
    "pid": (int, type(None)),
    "stdout_tail": (str,),
    "stderr_tail": (str,),
    "stdout_bytes": (int,),
    "stderr_bytes": (int,),
    "fault": (str, type(None)),
    "lost": (str, type(None)),
    "too_long": (bool,),
    "timed_out": (bool,),
    "ended_at_us": (int, type(None)),
    "took_us": (int, type(None)),
}


def _fits(name: str, value: object) -> bool:
    return type(value) in _KINDS.get(name, ()) and not (isinstance(value, int) and abs(value) >= 1 << 53)


def _is_left(one: object) -> bool:
    return isinstance(one, list) and len(one) == 2 and type(one[0]) is int and isinstance(one[1], str)
