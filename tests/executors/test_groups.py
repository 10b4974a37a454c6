"""Where nobody can be made the heir of what a task starts, its group tells whether an attempt is over."""

from __future__ import annotations

import subprocess
from signal import SIGKILL, SIGTERM

import pytest

from cis.executors.groups import Groups
from tests.worlds.descriptors import no_descriptors
from tests.worlds.waiting import wait_for

both_ways = pytest.mark.parametrize("portable", [pytest.param(False, id="proc"), pytest.param(True, id="portable")])


@both_ways
def test_a_group_that_lives_is_left_also_when_there_is_no_descriptor_to_look_at_it(*, portable: bool) -> None:
    groups = Groups(portable=portable)
    leader = subprocess.Popen(["/bin/sh", "-c", "sleep 600 & exit 0"], process_group=0)
    groups.begin(leader.pid, stamp=None, marks={})
    assert leader.wait(10) == 0
    with no_descriptors():
        unseen = groups.left_by(leader.pid)
    seen = groups.left_by(leader.pid)
    with no_descriptors():
        unseen_again = groups.left_by(leader.pid)
        groups.signal(leader.pid, SIGKILL, reaped=True)

    assert unseen
    assert seen
    assert unseen_again
    wait_for(lambda: not groups.left_by(leader.pid), what="the end of the group")


@both_ways
def test_what_left_the_group_is_told_once_there_are_descriptors_to_look_for_it(*, portable: bool) -> None:
    groups = Groups(portable=portable)
    line = "trap '' TERM; set -m; (trap - TERM; exec sleep 600) & echo; wait $!"
    leader = subprocess.Popen(["/bin/bash", "-c", line], process_group=0, stdout=subprocess.PIPE)
    groups.begin(leader.pid, stamp=None, marks={})
    assert leader.stdout is not None
    leader.stdout.readline()
    with no_descriptors():
        groups.signal(leader.pid, SIGTERM, reaped=False)
    unasked = leader.poll()
    groups.signal(leader.pid, SIGTERM, reaped=False)

    assert unasked is None
    assert leader.wait(10) == 128 + SIGTERM
    leader.stdout.close()
