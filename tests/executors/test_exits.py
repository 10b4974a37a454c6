"""How the ends of processes are noticed: each once, whatever else is waited for beside them."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from cis.executors.exits import PidfdExits
from cis.executors.platform import HAS_PIDFD
from tests.worlds.descriptors import no_descriptors
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.skipif(not HAS_PIDFD, reason="no pidfds on this system")


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


@pytest.mark.parametrize("hold", [False, True])
def test_the_end_of_a_child_is_told_also_when_there_is_no_descriptor_to_notice_it_with(*, hold: bool) -> None:
    exits = PidfdExits(hold=hold)
    process = subprocess.Popen(["/bin/sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with no_descriptors():
        exits.add(process)
        early = exits.wait(0.0).ended, exits.has(process.pid)
        process.stdin.close()
        ended = wait_for(lambda: exits.wait(5.0).ended, what="the end of the child")
        exits.release(process)
        late = exits.wait(0.0).ended, exits.has(process.pid)
    exits.close()

    assert early == ([], True)
    assert ended == [process]
    assert process.returncode == 3
    assert late == ([], False)


def test_a_child_without_a_descriptor_gets_one_as_soon_as_there_are_any() -> None:
    exits = PidfdExits()
    process = subprocess.Popen(["sleep", "600"])
    with no_descriptors():
        exits.add(process)
    before = _open_descriptors()
    exits.wait(0.0)
    watched = _open_descriptors() - before
    process.kill()
    ended = exits.wait(10.0).ended
    exits.close()

    assert watched == 1
    assert ended == [process]


def test_a_child_that_cannot_be_waited_for_by_its_descriptor_leaves_none_open() -> None:
    """A user may have epoll watch for a certain number of descriptors, of all processes together."""

    class Full:
        def register(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    exits = PidfdExits()
    process = subprocess.Popen(["true"])
    epoll, exits._epoll = exits._epoll, Full()  # type: ignore[assignment] # stands in for a limit of the system
    before = _open_descriptors()
    exits.add(process)
    after = _open_descriptors()
    exits._epoll = epoll
    ended = wait_for(lambda: exits.wait(1.0).ended, what="the end of the child")
    exits.close()

    assert after == before
    assert ended == [process]


def _open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))
