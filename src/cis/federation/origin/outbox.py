"""What waits to be sent: the message that an item of the outbox stands for, and what becomes of the item.

What a message says is read from the run when it is sent. An item goes once its message is answered for good, taken by
the homeserver, or cannot be made any more; then its run says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cis.engine.accept import dispatch
from cis.engine.accept.admission import names_above
from cis.engine.this_node import ThisNode
from cis.errors import NotFoundError, PoisonRecordError
from cis.federation.messages import head_fields, offer_terms
from cis.federation.origin import arbiter
from cis.federation.requested import DAG_REF, document_fields, progress_of
from cis.model.dag import Json
from cis.model.message import ABOVE, ERREXIT, ROOT, Message, MessageKind, Reply, Result
from cis.store.cluster import OfferRecord, OfferState, OutboxItem, RemoteRole
from cis.store.port import Store, read_spec, stored_spec
from cis.store.records import RunRecord
from cis.store.run_port import Runs


def message_of(store: Store, item: OutboxItem, *, sender: str, lease_s: float) -> Message:
    """Return the message that an item stands for; an offer says how long a lease would be.

    Raises:
        NotFoundError: its run is gone.
        PoisonRecordError: the run, or the item, cannot be read.
    """
    if item.kind not in set(MessageKind):
        raise PoisonRecordError(f"message {item.message_id}", f"{item.kind!r:.80} is not a kind of message")
    fields: Mapping[str, Json] = item.fields
    blob_name = blob = None
    if item.kind == MessageKind.EXECUTE:
        run = store.runs.get(item.run_id)
        if run is None:
            raise NotFoundError("run", item.run_id)
        remote = store.remotes.get(item.run_id)
        fields = {
            **head_fields(run),
            **_place_of(store.runs, run),
            **item.fields,
            "epoch": remote.epoch if remote else 0,
        }
        document = store.definitions.document(run.definition_id)
        spec = read_spec(document)  # what is no DAG any more is not sent
        if not item.node_id:
            fields = {**fields, **offer_terms(spec, epoch=fields["epoch"], lease_s=lease_s).fields()}
        inline, blob = document_fields(
            document,
            progress_of(store.tasks.of_run(run.run_id)),
            store.runs.params(run.run_id) if spec.params else {},
        )
        if blob is None:
            fields = {**fields, **inline}
        else:
            blob_name = DAG_REF
    return Message(
        kind=MessageKind(item.kind),
        message_id=item.message_id,
        sender=sender,
        created_at_us=item.created_at_us,
        expires_at_us=item.expires_at_us,
        run_id=item.run_id,
        target=item.node_id or None,
        fields=fields,
        blob_name=blob_name,
        blob=blob,
    )


def _place_of(runs: Runs, run: RunRecord) -> dict[str, Json]:
    """Return where in a tree of runs a run stands, if it is a task of another."""
    if run.tree is None:
        return {}
    return {ROOT: run.tree.rpartition(":")[2], ABOVE: list(names_above(runs, run))}


def answered(store: Store, item: OutboxItem, reply: Reply, *, peer_id: str, now_us: int) -> None:
    """Act on a peer's final answer to an item's message: its run is there now, or goes on, or ends here."""
    cancels = item.fields.get("action") == "cancel"
    store.outbox.remove(item.message_id)
    if item.kind == MessageKind.EXECUTE:
        dispatch.delivered(store, item.run_id, now_us=now_us, errexit=reply.fields.get(ERREXIT) is True)
    elif reply.fields.get("withdrawn") is True and cancels:
        error = f"cancelled before node {peer_id} had it"
        dispatch.undeliverable(store, item.run_id, error=error, now_us=now_us)
    elif reply.result is Result.REFUSED and cancels:
        dispatch.not_cancelled(store, item.run_id, now_us=now_us)


def give_up(store: Store, item: OutboxItem, error: str, *, now_us: int) -> None:
    """Drop an item whose message cannot be made; a run that nobody can be told of fails."""
    store.outbox.remove(item.message_id)
    if item.kind == MessageKind.EXECUTE:
        dispatch.undeliverable(store, item.run_id, error=error, now_us=now_us)


def sent_to_room(store: Store, item: OutboxItem, event_id: str, *, this_node: ThisNode) -> None:
    """Record that the homeserver took an item's message. A run stays to be sent until somebody takes it."""
    now_us = this_node.clock_us()
    if item.kind != MessageKind.EXECUTE:
        store.outbox.remove(item.message_id)
        if item.kind == MessageKind.GRANT:
            arbiter.grant_sent(store.remotes, item.run_id, epoch=int(item.fields["epoch"]), now_us=now_us)
        return
    remote = store.remotes.get(item.run_id)
    if remote is None or not remote.open:
        store.outbox.remove(item.message_id)
        return
    store.remotes.put(replace(remote, event_id=event_id))
    # The item stays until somebody takes the run, or its time is over. No offer is taken without this node's word.
    offered = remote.role is RemoteRole.OFFERED
    if not any(kept.message_id == item.message_id for kept in store.outbox.of_run(item.run_id)):
        return  # it was granted, or cancelled, while it was being sent
    store.outbox.put_off(item.message_id, due_at_us=item.expires_at_us, fault="", uncertain=not offered)
    run = store.runs.get(item.run_id)
    if offered and run is not None:
        spec, lease_s = stored_spec(store.definitions, run.definition_id), this_node.lease_s
        store.offers.put(
            OfferRecord(
                run_id=item.run_id,
                origin_id=this_node.node_id,
                event_id=event_id,
                epoch=remote.epoch,
                priority=run.priority,
                content=offer_terms(spec, epoch=remote.epoch, lease_s=lease_s).fields(),
                state=OfferState.OPEN,
                created_at_us=item.created_at_us,
                expires_at_us=item.expires_at_us,
                claim_at_us=now_us,
            )
        )
