"""How the ends of processes are noticed: each once, whatever else is waited for beside them."""

from __future__ import annotations

import os
import subprocess

import pytest

from cis.executors.exits import PidfdExits
from cis.executors.platform import HAS_PIDFD


@pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")
def test_an_end_is_told_once_when_its_number_was_that_of_a_pipe_which_a_child_has_still_open() -> None:
    """A child has all that is open here until its ``exec`` is done, also what is closed here meanwhile."""
    exits = PidfdExits()
    process = subprocess.Popen(["/bin/sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    reader, writer = os.pipe()
    still_open_in_the_child = os.dup(reader)
    exits.listen(reader)
    os.write(writer, b"not read")

    exits.unlisten(reader)
    os.close(reader)
    exits.add(process)  # has the number of the pipe
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    told = [exits.wait(0.0) for _ in range(3)]
    exits.close()
    os.close(writer)
    os.close(still_open_in_the_child)

    assert [notice.ended for notice in told] == [[process], [], []]
    assert process.returncode == 3
