"""What is said of the node that executes a run, and of when it was heard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cis.cli.dag.runner import UNHEARD_S, heard


def run(*, ago_s: float | None, status: str = "running", delivery: str = "pushed") -> dict[str, Any]:
    """Return what is told of a run whose node was heard so long ago."""
    contact = None if ago_s is None else (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat()
    return {"status": status, "delivery": delivery, "owner_node": "node-2", "last_contact": contact}


@pytest.mark.parametrize(
    ("ago_s", "told"),
    [(None, "on node-2, not heard yet"), (10, "on node-2, heard 1"), (UNHEARD_S + 80, "on node-2, not heard for 2m0")],
)
def test_a_run_on_another_node_says_on_which_and_since_when_that_was_not_heard(ago_s: float | None, told: str) -> None:
    assert heard(run(ago_s=ago_s), node_runs=True).startswith(told)


def test_what_is_told_of_changes_alone_does_not_count_the_seconds() -> None:
    silent = run(ago_s=UNHEARD_S + 1)

    assert heard(run(ago_s=3), node_runs=True, steady=True) == "on node-2"
    assert heard(silent, node_runs=True, steady=True).startswith("on node-2, not heard since ")


def test_without_a_node_here_nobody_hears_anything() -> None:
    assert "no node runs here to hear of it" in heard(run(ago_s=3), node_runs=False)


def test_a_run_of_this_node_or_one_that_is_over_is_on_no_other() -> None:
    assert heard(run(ago_s=3, delivery="local"), node_runs=True) == ""
    assert heard(run(ago_s=3, status="completed"), node_runs=True) == ""
