"""A node that executes what others hand to it: takes runs on, acts on controls, reports a run anew.

- A run is known by its id. One that comes again is answered with how it stands, whatever became of it; one that was
  pruned meanwhile is refused for as long as the message that brought it is not expired, and that long after.
- Controls of a run are numbered by its origin; one that is older than the last that was acted upon does nothing. A
  cancel that overtakes its run is remembered, and the run refused when it comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from cis.engine.accept import control
from cis.engine.accept.admission import Asker
from cis.engine.accept.submit import Origin, SubmitRequest, canonical_json, submit
from cis.engine.lookup import look_up_run
from cis.engine.this_node import ThisNode
from cis.errors import IllegalStateError, MalformedMessageError, MessageRefusedError, OverloadedError
from cis.federation import restored
from cis.federation.executing.claiming import set_unfit
from cis.federation.messages import EXECUTE, Outcome, ReceivedMessage, outcome
from cis.federation.requested import RequestedRun
from cis.model.dag import Json
from cis.model.message import CANCEL_TASKS, ERREXIT, MAX_NUMBER, TASKS, MessageKind, Reply, Result
from cis.model.scope_rules import in_common
from cis.model.states import Priority
from cis.store.access_records import AuditRecord
from cis.store.cluster import EVERYONE, OutboxItem, RemoteRole, RemoteRun, Route
from cis.store.cluster_port import Outbox, Remotes
from cis.store.port import Store
from cis.store.records import RunRecord
from cis.store.run_port import Definitions

_ACTIONS: dict[str, Callable[..., RunRecord]] = {
    CANCEL_TASKS: lambda store, run_id, **_: look_up_run(store.runs, run_id),
    "cancel": partial(control.cancel, again=True),
    "pause": control.pause,
    "resume": control.resume,
}
MAX_WITHDRAWN = 10_000


def receive_execute(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Take on a run that is addressed to this node, unless it is known, withdrawn, or may have been done before."""
    message = received.message
    if received.requested is None or not message.run_id:
        raise MalformedMessageError("an execute message needs a run_id and a DAG")
    known = store.runs.get(message.run_id)
    if known is not None:
        return _known(store.definitions, known, received.requested, sender=message.sender)
    if store.remotes.withdrawn(message.run_id, sender=message.sender):
        raise MessageRefusedError("run.withdrawn", "it was cancelled before it came, or is forgotten")
    question = restored.ask_for(store, received, this_node=this_node)
    if question is not None:
        return question
    run = take_on(store, received, received.requested, this_node=this_node)
    return outcome(Result.ACCEPTED, rings=(run.worker_id,), status=str(run.status), **{ERREXIT: run.errexit})


def _known(definitions: Definitions, run: RunRecord, requested: RequestedRun, *, sender: str) -> Outcome:
    definition = definitions.get(run.definition_id)
    digest = hashlib.sha256(canonical_json(requested.spec).encode()).hexdigest()
    if run.node_id != sender or definition is None or definition.sha256 != digest:
        raise MessageRefusedError("run.known", f"run {run.run_id} is known here as another one; run ids are used once")
    detail = f"run {run.run_id} came before; it is {run.status}"
    return Outcome(
        reply=Reply(result=Result.DUPLICATE, detail=detail, fields={"status": str(run.status), ERREXIT: run.errexit})
    )


def take_on(store: Store, received: ReceivedMessage, requested: RequestedRun, *, this_node: ThisNode) -> RunRecord:
    """Put the run of an execute message into this node's queue, and remember whom to report to."""
    message = received.message
    if EXECUTE not in received.peer.may:
        raise MessageRefusedError("auth.forbidden", f"node {message.sender!r} may not {EXECUTE} here")
    origin = Origin(
        node_id=message.sender,
        run_id=message.run_id,
        created_at_us=message.created_at_us,
        depth=requested.depth,
        tree=None if requested.root is None else f"{message.sender}:{requested.root}",
        above=requested.above,
    )
    asker = Asker(
        name=f"node {message.sender!r}", scopes=in_common(received.peer.scopes, requested.scopes), shares=True
    )
    request = SubmitRequest(
        spec=requested.spec,
        kept=requested.kept,
        origin=origin,
        asker=asker,
        errexit=requested.errexit,
        params=requested.params,
        trigger=requested.trigger,
    )
    run = submit(store, request, this_node=this_node).run
    store.remotes.put(
        RemoteRun(run_id=run.run_id, role=RemoteRole.RECEIVED, peer_id=message.sender, event_id=received.event_id)
    )
    # The run itself may be forgotten while this message could still be sent again; this note outlives it.
    store.remotes.withdraw(run.run_id, sender=message.sender, expires_at_us=message.expires_at_us)
    store.audit.append(
        AuditRecord(
            at_us=this_node.clock_us(),
            actor=f"node:{message.sender}",
            action="dag.execute",
            subject=run.run_id,
            source=received.source,
        )
    )
    return run


def receive_control(store: Store, received: ReceivedMessage, *, this_node: ThisNode) -> Outcome:
    """Cancel, pause or resume a run of the sender, as it last asked; remember a cancel that came before its run."""
    message = received.message
    action, seq = message.fields.get("action"), message.fields.get("seq")
    if not isinstance(action, str) or action not in _ACTIONS or not isinstance(seq, int) or isinstance(seq, bool):
        raise MalformedMessageError(f"a control message needs a number seq and an action: {', '.join(_ACTIONS)}")
    remote = store.remotes.get(message.run_id)
    if remote is None:
        if action == "cancel" and store.runs.get(message.run_id) is None:
            known = store.remotes.withdrawn(message.run_id, sender=message.sender)
            if not known and store.remotes.withdrawal_count(message.sender, at_most=MAX_WITHDRAWN) >= MAX_WITHDRAWN:
                what = f"{MAX_WITHDRAWN:,} runs of node {message.sender!r} are remembered as gone or withdrawn"
                raise OverloadedError(what, retry_after_s=60)
            store.remotes.withdraw(message.run_id, sender=message.sender, expires_at_us=message.expires_at_us)
            return outcome(Result.ACCEPTED, withdrawn=True)
        raise MessageRefusedError("not_found", f"no run {message.run_id!r} of node {message.sender!r}")
    if remote.role is not RemoteRole.RECEIVED or remote.peer_id != message.sender:
        raise MessageRefusedError("auth.forbidden", f"run {message.run_id} is not node {message.sender!r}'s")
    if seq <= remote.control_seq:
        return outcome(Result.DUPLICATE)
    store.remotes.put(replace(remote, control_seq=seq))
    try:
        if TASKS in message.fields:
            control.cancel_tasks(store, message.run_id, _numbers(message.fields[TASKS]), now_us=this_node.clock_us())
        run = _ACTIONS[action](store, message.run_id, now_us=this_node.clock_us())
    except IllegalStateError as error:
        return Outcome(reply=Reply(result=Result.DUPLICATE, code=error.code, detail=str(error)))
    rings = [run.worker_id, *(child.worker_id for child in store.runs.children(run.run_id))]
    return outcome(Result.ACCEPTED, rings=tuple(rings))


def _numbers(plain: Json) -> Sequence[int]:
    whole = isinstance(plain, list) and all(isinstance(one, int) and 0 <= one <= MAX_NUMBER for one in plain)
    if not whole or len(plain) > control.MAX_ASKED:
        raise MalformedMessageError(f"{TASKS} must be a list of at most {control.MAX_ASKED:,} numbers of tasks")
    return list(plain)


def receive_ask(remotes: Remotes, received: ReceivedMessage) -> Outcome:
    """Open a run again that is asked for in the room, to report it from its beginning. By HTTP the answer reports."""
    if received.event_id is not None:
        remote, sender = remotes.get(received.message.run_id), received.message.sender
        if remote is None or remote.role is not RemoteRole.RECEIVED or remote.peer_id != sender:
            raise MessageRefusedError(
                "not_found", f"no run {received.message.run_id!r} of node {sender!r} ever came here"
            )
        remotes.put(replace(remote, open=True))
    return outcome(Result.ACCEPTED)


def refuse_in_room(store: Store, received: ReceivedMessage, outcome: Outcome, *, this_node: ThisNode) -> None:
    """Post to its origin that a run which came by the room is refused; one that was granted is claimed no more."""
    message = received.message
    granted = message.kind is MessageKind.GRANT and message.fields.get("node_id") == this_node.node_id
    if granted:
        set_unfit(store.offers, message.run_id)
    asked = message.target == this_node.node_id and message.kind in (MessageKind.EXECUTE, MessageKind.ASK)
    if granted or asked:
        now_us, message_id = this_node.clock_us(), this_node.new_id()
        _post_refusal(store.outbox, received, outcome, now_us=now_us, message_id=message_id)


def _post_refusal(outbox: Outbox, received: ReceivedMessage, outcome: Outcome, *, now_us: int, message_id: str) -> None:
    message, peer, reply = received.message, received.peer, outcome.reply
    outbox.add(
        OutboxItem(
            message_id=message_id,
            kind=MessageKind.STATUS,
            run_id=message.run_id,
            node_id=peer.node_id or EVERYONE,
            route=Route.PUSH if peer.url is not None else Route.ROOM,
            priority=Priority.NORMAL,
            created_at_us=now_us,
            expires_at_us=now_us + 7 * 86_400_000_000,
            due_at_us=now_us,
            fields={
                "state": "refused",
                "epoch": message.fields.get("epoch", 0) if message.kind is MessageKind.GRANT else 0,
                "refused": {"code": reply.code, "detail": reply.detail},
            },
        )
    )
