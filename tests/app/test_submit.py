"""Handing in as the command line, HTTP and the room's chat do it: with the audit log, and with whom to wake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.app.actor import Actor
from cis.app.submit import Asker, SubmitRequest, accept, rerun_of, save, stored_dag, submit
from cis.engine.accept.staging import SMALL_TASKS
from cis.errors import ConflictError, NotFoundError, OverloadedError, UsageError
from cis.model.message import MessageKind
from tests.worlds.deciding import Decider, decider, spec_of

TOKEN = Actor(name="ci", source="192.0.2.1")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Decider]:
    with decider(tmp_path) as node:
        yield node


def audited(node: Decider) -> list[tuple[str, str, str, str]]:
    return [(one.actor, one.action, one.subject, one.source) for one in node.store.audit.page(limit=99)]


def test_a_run_is_audited_with_who_handed_it_in_and_its_worker_is_to_be_woken(node: Decider) -> None:
    request = SubmitRequest(spec=spec_of(target_node="node-1", scope="project:a"))

    accepted = submit(node.store, request, this_node=node.this_node, by=TOKEN)

    assert audited(node) == [("ci", "dag.execute", accepted.run.run_id, "192.0.2.1")]
    assert accepted.wake == {"worker-project-a"}


def test_a_rerun_is_audited_as_one(node: Decider) -> None:
    old = node.submitted(target_node="node-1")

    new = submit(node.store, rerun_of(node.store, old.run_id).request, this_node=node.this_node, by=TOKEN).run

    assert audited(node) == [("ci", "run.rerun", new.run_id, "192.0.2.1")]


def test_a_known_key_makes_no_entry_and_wakes_nobody(node: Decider) -> None:
    request = SubmitRequest(spec=spec_of(target_node="node-1"), idempotency_key="k")

    first, second = (submit(node.store, request, this_node=node.this_node, by=TOKEN) for _ in range(2))

    assert (second.run.run_id, second.created, second.wake) == (first.run.run_id, False, frozenset())
    assert len(audited(node)) == 1


def test_a_large_dag_that_is_refused_at_last_leaves_nothing_staged(
    node: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.store.staged, "complete", lambda _run_id, **_: False)
    request = SubmitRequest(spec=spec_of(*[{}] * (SMALL_TASKS + 1), target_node="node-1"))

    with pytest.raises(OverloadedError):
        submit(node.store, request, this_node=node.this_node, by=TOKEN)

    assert list(node.store.staged.runs(after="", before="~", limit=9)) == []
    assert audited(node) == []


def test_tokens_store_no_more_dags_than_a_node_holds_and_the_owner_is_not_bound(
    node: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cis.app.submit.MAX_STORED_DAGS", 2)
    token = Asker(name="token 'ci'", shares=True)
    for name in ("a", "b"):
        save(node.store, spec_of(dag_id=name), this_node=node.this_node, by=TOKEN, asker=token)

    with pytest.raises(ConflictError, match="2 DAGs are stored here"):
        save(node.store, spec_of(dag_id="c"), this_node=node.this_node, by=TOKEN, asker=token)

    assert not save(node.store, spec_of(dag_id="b"), this_node=node.this_node, by=TOKEN, asker=token).created
    assert save(node.store, spec_of(dag_id="c"), this_node=node.this_node, by=TOKEN).created


@pytest.mark.parametrize("sends", [True, False])
def test_only_who_sends_a_run_itself_keeps_others_from_sending_it(node: Decider, *, sends: bool) -> None:
    request = SubmitRequest(spec=spec_of(target_node="node-2"))

    with node.store.transaction():
        run = accept(node.store, request, this_node=node.this_node, by=TOKEN, sends=sends).run

    (item,) = node.posted(run.run_id, MessageKind.EXECUTE)
    assert (item.due_at_us > node.now_us) is sends


def test_only_a_dag_that_was_stored_is_run_by_name(node: Decider) -> None:
    node.submitted(target_node="node-1", dag_id="ran")
    save(node.store, spec_of(dag_id="stored"), this_node=node.this_node, by=TOKEN)

    request = stored_dag(node.store.definitions, "stored", key="k", asker=Asker(), target="node-1")

    assert (request.spec.dag_id, request.spec.target_node, request.idempotency_key) == ("stored", "node-1", "k")
    with pytest.raises(UsageError, match="'cis dag save' stores a DAG"):
        stored_dag(node.store.definitions, "ran", key="k", asker=Asker())
    with pytest.raises(NotFoundError):
        stored_dag(node.store.definitions, "none", key="k", asker=Asker())
