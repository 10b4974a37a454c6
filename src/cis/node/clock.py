"""The one place where the time is read and ids are made."""

from __future__ import annotations

import os
import time

from cis.engine.times import Instant


def now_us() -> int:
    """Return microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def now() -> Instant:
    """Return this moment on both clocks."""
    return Instant(time.time_ns() // 1000, time.monotonic())


_AWAKE_OR_ASLEEP = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # a Mac's monotonic clock counts its sleep


def now_awake_or_asleep() -> Instant:
    """Return this moment; the monotonic clock is one that goes on while the machine sleeps."""
    return Instant(time.time_ns() // 1000, time.clock_gettime(_AWAKE_OR_ASLEEP))


def uptime_us() -> int:
    """Return how long this machine has been up, asleep or not, in microseconds."""
    return time.clock_gettime_ns(_AWAKE_OR_ASLEEP) // 1000


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562): unique, and sorted by the time at which it was made.

    The 12 bits after the milliseconds are the fraction of the millisecond, so ids of one process keep their order.
    """
    ns = time.time_ns()
    milliseconds, rest = divmod(ns, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
