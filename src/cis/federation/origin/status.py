"""An origin and the word of the nodes that execute its runs: takes status messages in, asks when something is missing.

A report is only taken from the node that holds the run, under the grant that it holds it by, and merges row by row
(``cis.federation.origin.mirror``).
"""

from __future__ import annotations

from cis.engine.accept.dispatch import delivered, undeliverable
from cis.engine.logfiles import LogFiles
from cis.engine.this_node import ThisNode
from cis.errors import MessageRefusedError
from cis.federation import restored
from cis.federation.messages import INCOMPLETE, Outcome, ReceivedMessage, outcome, refusal_text
from cis.federation.origin import arbiter
from cis.federation.origin.mirror import apply_report
from cis.model.message import MessageKind, Reply, Result, Standing
from cis.store.cluster import OutboxItem, RemoteRole, RemoteRun, Route
from cis.store.port import Store
from cis.store.run_port import Runs

ASK_FOR_US = 3_600_000_000


def receive_status(store: Store, received: ReceivedMessage, *, this_node: ThisNode, logfiles: LogFiles) -> Outcome:
    """Take over what the node that holds a run tells of it: a report, a refusal, or a question after a restore."""
    message, remote = received.message, held_run(store, received)
    now_us = this_node.clock_us()
    answer = restored.receive_question(store, received, remote, this_node=this_node)
    if answer is not None:
        return answer
    refusal = message.fields.get("refused")
    is_restored = remote.epoch > 0 and store.restores.doubts(message.run_id)
    if is_restored and refusal is not None:
        return outcome(Result.DUPLICATE)  # of long ago perhaps: it is offered again in any case
    if is_restored:
        store.remotes.put(remote)
    if refusal is not None and remote.epoch:
        arbiter.take_back(store, remote, this_node=this_node, why=refusal_text(message.sender, refusal))
        return outcome(Result.ACCEPTED)
    if refusal is not None:
        undeliverable(store, message.run_id, error=refusal_text(message.sender, refusal), now_us=now_us)
        return outcome(Result.ACCEPTED)
    delivered(store, message.run_id, now_us=now_us)
    arbiter.hear_from_holder(store, remote, Standing.read(message.fields), this_node=this_node)
    fresh = store.remotes.get(message.run_id)
    if fresh is None or fresh.role is not RemoteRole.SENT or not fresh.open:
        return outcome(Result.DUPLICATE)
    applied = apply_report(store, logfiles, fresh, received.report, now_us=now_us)
    if applied.run.status.final:
        store.outbox.remove_of_run(message.run_id, MessageKind.CONTROL)
    if applied.incomplete:
        if received.event_id is not None:
            ask_in_room(store, fresh, message_id=this_node.new_id(), now_us=now_us)
        return Outcome(reply=Reply(result=Result.LATER, code=INCOMPLETE, detail="tell all of it again"))
    return Outcome(reply=Reply(result=Result.ACCEPTED), rings=_parent_ring(store.runs, applied.parent_run_id))


def held_run(store: Store, received: ReceivedMessage) -> RemoteRun:
    """Return the other node's part in the run that a status message is about, which has to be its sender's."""
    message = received.message
    remote = store.remotes.get(message.run_id)
    known = restored.adopted(store.restores, received, remote) if remote is not None else None
    if known is not None:
        return known
    held = remote is not None and remote.role is RemoteRole.SENT and remote.peer == message.sender
    if remote is None or not held or message.fields.get("epoch") != remote.epoch:
        raise MessageRefusedError("auth.forbidden", f"node {message.sender!r} does not hold run {message.run_id!r}")
    return remote


def ask_in_room(store: Store, remote: RemoteRun, *, message_id: str, now_us: int) -> None:
    """Ask the node that has a run how it goes, unless that was asked and is not answered yet."""
    run = store.runs.get(remote.run_id)
    if run is None or any(item.kind == MessageKind.ASK for item in store.outbox.of_run(remote.run_id)):
        return
    store.outbox.add(
        OutboxItem(
            message_id=message_id,
            kind=MessageKind.ASK,
            run_id=remote.run_id,
            node_id=remote.peer,
            route=Route.ROOM,
            priority=run.priority,
            created_at_us=now_us,
            expires_at_us=now_us + ASK_FOR_US,
            due_at_us=now_us,
        )
    )


def _parent_ring(runs: Runs, parent_run_id: str | None) -> frozenset[str]:
    """Return the worker that waits for a run as its task, if there is one."""
    parent = runs.get(parent_run_id) if parent_run_id is not None else None
    return frozenset() if parent is None else frozenset({parent.worker_id})
