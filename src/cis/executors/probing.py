"""Whether the machine has what another process needs, found out by starting one that does nothing."""

from __future__ import annotations

import os
from contextlib import suppress

from cis.engine.shortage import shortage_of

_DESCRIPTORS = 4  # its two logs, its input, and what tells of its end


def shortage() -> str | None:
    """Return what the machine is short of, with the mend; None: a process could be started."""
    descriptors: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            descriptors.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - each is to be closed
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", ":"], {})
    except OSError as error:
        return shortage_of(error)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return None
