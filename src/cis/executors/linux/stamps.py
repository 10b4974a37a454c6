"""A stamp on the processes of an attempt, which they hand down to all that they start, whatever that does to get away.

Linux keeps a limit for each process that means nothing since version 2.4.25 (``RLIMIT_LOCKS``, setrlimit(2)). It goes
along over ``fork`` and ``exec``; a session of one's own and an empty environment do not change it. So a worker sets it
to a number of the attempt, starts the process, and sets it back: two system calls. Whoever sets that limit on purpose
(``ulimit -x``) takes the stamp off. Where there is no such limit, or a hard one forbids it, nothing is stamped, and the
environment has to tell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import blake2b
from pathlib import Path

from cis.engine.ports import StrPath
from cis.engine.shortage import shortage_of

_RLIMIT_LOCKS = 10
_LEAST = 1 << 61  # more than anybody would set
_LINE = "Max file locks"


def stamp_of(marks: Mapping[str, str], *, home: StrPath | None = None) -> int | None:
    """Return the stamp of what has these *marks* in *home*, in every process the same; None: none can be set."""
    if not marks or not can_stamp():
        return None
    text = "" if home is None else _whole(os.fspath(home))
    for name, value in sorted(marks.items()):
        text += f"\0{name}={value}"
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return number >> 2 | _LEAST


@lru_cache(maxsize=8)
def _whole(home: str) -> str:
    return os.path.realpath(home)


@cache
def can_stamp() -> bool:
    """Whether this system has the limit, and lets it be set to anything."""
    if sys.platform != "linux":
        return False
    import resource  # noqa: PLC0415 - commands that start nothing do without

    try:
        own, most = resource.getrlimit(_RLIMIT_LOCKS)
        resource.setrlimit(_RLIMIT_LOCKS, (own, most))
    except (OSError, ValueError):
        return False
    return bool(most == resource.RLIM_INFINITY)


class Stamping:
    """What is started within wears the stamp; with None, that of this process, if it has one itself."""

    __slots__ = ("_limits", "_set", "_stamp")

    def __init__(self) -> None:
        self._stamp: int | None = None
        if can_stamp():
            import resource  # noqa: PLC0415 - commands that start nothing do without

            self._limits = resource.getrlimit(_RLIMIT_LOCKS)
            self._set = resource.setrlimit

    def __call__(self, stamp: int | None) -> Stamping:
        """Choose the stamp for the next ``with``."""
        self._stamp = stamp
        return self

    def __enter__(self) -> None:
        if self._stamp is not None:
            self._set(_RLIMIT_LOCKS, (self._stamp, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        if self._stamp is not None:
            self._set(_RLIMIT_LOCKS, self._limits)


def stamp_on(pid: int) -> int | None:
    """Return the stamp that a process wears; None when it has none, or is not there.

    Raises:
        OSError: there is no descriptor or memory to read what another user's process shows, so nothing can be told.
    """
    if not can_stamp():
        return None
    import resource  # noqa: PLC0415 - commands that start nothing do without

    try:
        number = resource.prlimit(pid, _RLIMIT_LOCKS)[0]  # type: ignore[attr-defined,unused-ignore] # Linux alone has it
    except PermissionError:  # another user's; anybody may read what it shows
        number = _shown(pid)
    except OSError:
        return None
    return number if number >= _LEAST and number != resource.RLIM_INFINITY else None


def _shown(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            if line.startswith(_LINE):
                return int(line[len(_LINE) :].split()[0])
    except (ValueError, IndexError):
        return 0
    except OSError as error:
        if shortage_of(error) is not None:
            raise
    return 0
