"""Staying with a run: whoever does is woken by what is stored, and need not look again and again."""

from __future__ import annotations

import threading

import pytest

from cis.cli.context import Context
from cis.cli.dag import progress
from cis.cli.dag.progress import Progress
from cis.engine.observe import logreader
from cis.model.states import RunState
from cis.node.home import Home
from cis.worker.bell import WATCHING, ring_watchers
from tests.worlds.serving import NodeUnderTest
from tests.worlds.waiting import wait_for


@pytest.mark.parametrize("follow", [False, True])
def test_who_stays_with_a_run_is_woken_by_its_end(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch, *, follow: bool
) -> None:
    for module in (progress, logreader):
        monkeypatch.setattr(module, "POLL_S", 3600.0)
    home = Home(node.logfiles.root.parent)
    home.run.mkdir(exist_ok=True)
    run = node.changed(node.submitted({"id": "a"}), RunState.RUNNING)
    watching = threading.Thread(
        target=Progress(Context({"CIS_HOME": str(home.root)}), run, follow=follow, quiet=True).watch
    )
    watching.start()
    wait_for(lambda: list((home.run / WATCHING).glob("*.wake")), what="the bell")
    node.changed(run, RunState.COMPLETED)
    ring_watchers(home.run)
    watching.join(30)

    assert not watching.is_alive()
