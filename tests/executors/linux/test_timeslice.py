"""A short time slice for a worker, and the usual one for what it starts. Real processes, as their system shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ASK = """
import os, subprocess, sys
from cis.executors.linux.timeslice import take_short_turns
def slice_ns(pid):
    lines = [line.split() for line in open(f"/proc/{pid}/sched") if line.startswith("se.slice")]
    return int(lines[0][-1]) if lines else None
usual = slice_ns("self")
granted = take_short_turns()
mine = slice_ns("self")
show = "print([line.split()[-1] for line in open('/proc/self/sched') if line.startswith('se.slice')])"
theirs = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout.strip()
print(granted, usual != mine, mine, theirs == str([str(usual)]), os.getpriority(os.PRIO_PROCESS, 0))
"""


def _asked(*before: str) -> list[str]:
    done = subprocess.run([*before, sys.executable, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def _shows_slices() -> bool:
    try:
        return "se.slice" in Path("/proc/self/sched").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.skipif(not _shows_slices(), reason="this system does not show time slices")
def test_a_worker_has_short_turns_and_what_it_starts_the_usual_ones() -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    granted, changed, slice_ns, same, priority = _asked(*(["nice", "-n", str(-usual)] if usual else []))

    if priority == "0":  # elsewhere the tests are nice, and may not be less so
        assert (granted, changed, slice_ns, same) == ("True", "True", "100000", "True")
    else:
        assert (granted, changed, same) == ("False", "False", "True")


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no policies")
def test_a_priority_that_somebody_chose_is_left_alone() -> None:
    granted, changed, *_, priority = _asked("nice", "-n", "5")

    assert (granted, changed, priority) == ("False", "False", str(min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)))
