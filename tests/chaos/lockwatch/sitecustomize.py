"""Notes, in every process that finds this on its path, how long each transaction held the write lock of the database.

Python imports a module of this name when it starts. One line a transaction goes to a file of the process in
``CIS_LOCK_TIMES``: its kind, the microseconds from the lock to the end of the commit, and the rows that it changed.
Nothing of this is in the product.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def _kind() -> str:
    """Return whose transaction it is: the function that opened it; for the node's writer, the job that it did first."""
    frame = sys._getframe(2)
    name = frame.f_code.co_name
    job = frame.f_locals["group"][0].function if name == "_do" else None
    if job is None:
        return f"{Path(frame.f_code.co_filename).stem}.{name}"
    return f"node: {job.__qualname__.replace('.<locals>', '').replace('.<lambda>', '')}"


def _watch(folder: Path) -> None:
    from cis.store.sqlite import connection  # noqa: PLC0415 - only where it is asked for

    file = (folder / f"{os.getpid()}.log").open("a", buffering=1)

    class Watched(connection._Transaction):
        __slots__ = ("_before", "_began_ns")

        def __enter__(self) -> None:
            super().__enter__()
            self._began_ns = time.monotonic_ns()
            self._before = self._database.connection.total_changes()

        def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
            rows = self._database.connection.total_changes() - self._before
            try:
                super().__exit__(kind, *rest)
            finally:
                file.write(f"{_kind()}\t{(time.monotonic_ns() - self._began_ns) // 1000}\t{rows}\n")

    connection._Transaction = Watched  # type: ignore[misc]


if os.environ.get("CIS_LOCK_TIMES"):
    _watch(Path(os.environ["CIS_LOCK_TIMES"]))
