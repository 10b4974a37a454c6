"""A worker comes before its tasks: it needs little of the processor, but at once, and each free slot waits for it.

``nice`` says who comes first, but only within a session where Linux shares the processor between sessions before it does so
within one (sched(7), autogroup): a task in a session of its own would weigh as much as its worker, however nice it is, and a
scope with many tasks more than a person's own programs. So tasks stay in their worker's session, unless a terminal
belongs to that, at which they would be stopped when they ask for a password.
"""

from __future__ import annotations

import os
from contextlib import suppress


def has_terminal() -> bool:
    """Whether a terminal belongs to the session of this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def lower(group: int, *, by: int) -> None:
    """Make a process group, whose leader was not reaped yet, nicer than this process; the system stops at the most there is.

    All of the group: its leader may have started others already. What forbids it harms nobody.
    """
    if by:
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, group, os.getpriority(os.PRIO_PROCESS, 0) + by)
