"""A short time slice for a process that wakes up often and never works for long: a worker, between its tasks.

The kernel lets a process that has just woken up wait for the end of the slice of another, a millisecond or more, and a
short task is over by then; the slots of a worker that waits stay empty. From Linux 6.12 on, one that asks for a short
slice (and gets its turns in shorter pieces for it, but no more of them) is let in at once. What it starts has the usual
slice again.
"""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress

SLICE_NS = 100_000  # the least that the kernel takes
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274, "riscv64": 274}  # of the call sched_setattr
_RESET_ON_FORK = 1


def take_short_turns() -> bool:
    """Ask the system for a short slice for the calling thread; return whether it took the wish (older ones then ignore it).

    False, and nothing is changed, where the system knows no such thing, or somebody has given this process another
    policy or priority than the usual one.
    """
    known = platform.system() == "Linux" and sys.maxsize > 2**32
    call = _SET_ATTRIBUTES.get(platform.machine()) if known else None
    if call is None or os.sched_getscheduler(0) != os.SCHED_OTHER or os.getpriority(os.PRIO_PROCESS, 0):
        return False
    try:
        import ctypes  # noqa: PLC0415 - the C library has had this call since 2.41 only, Python has it not
    except ImportError:  # a Python without it
        return False

    class Attributes(ctypes.Structure):
        """``struct sched_attr``, see sched_setattr(2); the runtime of SCHED_OTHER is its slice, in nanoseconds."""

        _fields_ = (
            ("size", ctypes.c_uint32),
            ("policy", ctypes.c_uint32),
            ("flags", ctypes.c_uint64),
            ("nice", ctypes.c_int32),
            ("priority", ctypes.c_uint32),
            ("runtime", ctypes.c_uint64),
            ("deadline", ctypes.c_uint64),
            ("period", ctypes.c_uint64),
        )

    wanted = Attributes(ctypes.sizeof(Attributes), os.SCHED_OTHER, _RESET_ON_FORK, 0, 0, SLICE_NS, 0, 0)
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).syscall(call, 0, ctypes.byref(wanted), 0) == 0)
    return False
