"""Cancel, pause and resume as the command line, HTTP and the room's chat ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.app.actor import Actor
from cis.app.control import Action, Controlled, control
from cis.engine.accept.submit import ParentRun, SubmitRequest, submit
from cis.errors import NotFoundError
from cis.model.scope_rules import given_patterns
from cis.model.states import RunState
from cis.store.records import RunRecord
from tests.worlds.deciding import Decider, decider, spec_of

ALICE = Actor(name="user:alice", source="cli")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def asked(node: Decider, run: RunRecord, action: Action, *, audit_repeats: bool = True) -> Controlled:
    with node.store.transaction():
        return control(node.store, run.run_id, action, by=ALICE, now_us=node.now_us, audit_repeats=audit_repeats)


def audited(node: Decider) -> list[tuple[str, str, str, str]]:
    return [(one.actor, one.action, one.subject, one.source) for one in node.store.audit.page(limit=99)]


@pytest.mark.parametrize("action", Action)
def test_what_is_asked_of_a_run_is_audited_with_who_asked_and_from_where(node: Decider, action: Action) -> None:
    run = node.submitted(target_node="node-1")

    asked(node, run, action)

    assert audited(node) == [("user:alice", f"run.{action}", run.run_id, "cli")]


@pytest.mark.parametrize(("audit_repeats", "entries"), [(True, 2), (False, 1)])
def test_a_repeat_that_changes_nothing_is_audited_where_the_caller_wants_it(
    node: Decider, *, audit_repeats: bool, entries: int
) -> None:
    run = node.submitted(target_node="node-1")

    for _ in range(2):
        asked(node, run, Action.PAUSE, audit_repeats=audit_repeats)

    assert len(audited(node)) == entries


def test_a_repeat_that_asks_another_node_again_is_audited_each_time(node: Decider) -> None:
    run = node.submitted(target_node="node-2")

    changes = [asked(node, run, Action.PAUSE, audit_repeats=False) for _ in range(2)]

    assert [one.another_node for one in changes] == [True, True]
    assert len(audited(node)) == 2


def test_a_run_that_ends_at_once_wakes_the_workers_of_its_child_runs_too(node: Decider) -> None:
    parent = node.submitted(target_node="node-1", scope="project:a")
    above = ParentRun(run_id=parent.run_id, task_id="t0", depth=0, tree=parent.run_id)
    with node.store.transaction():
        request = SubmitRequest(spec=spec_of(dag_id="x", target_node="node-1", scope="project:b"), parent=above)
        child = submit(node.store, request, this_node=node.this_node).run

    changed = asked(node, parent, Action.CANCEL)

    assert changed.run.status is RunState.CANCELLED
    assert changed.wake == {parent.worker_id, child.worker_id}
    assert not changed.another_node


def test_a_run_of_a_scope_that_may_not_be_seen_is_not_there(node: Decider) -> None:
    run = node.submitted(target_node="node-1", scope="project:a")
    others = given_patterns("project:b")

    with pytest.raises(NotFoundError), node.store.transaction():
        control(node.store, run.run_id, Action.CANCEL, by=ALICE, now_us=node.now_us, scopes=others)

    assert node.run(run.run_id).status is RunState.PENDING
    assert audited(node) == []
