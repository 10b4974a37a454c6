"""Trust in other nodes: whom this node works with, what each may, and what becomes of the runs between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from cis.app.actor import Actor, append_audit
from cis.engine.accept.control import cancel
from cis.engine.accept.dispatch import CONTROL_FOR_S, post_control, undeliverable
from cis.errors import NotFoundError
from cis.federation.messages import EXECUTE, RIGHTS
from cis.model.scope_rules import Patterns, allows, listed
from cis.store.cluster import PeerRecord, RemoteRole
from cis.store.port import Store
from cis.store.records import RunRecord

__all__ = ["RIGHTS", "Trusted", "Untrusted", "trust", "untrust"]


_SAID = ("public_key", "may", "trusted_at_us", "url", "matrix_user", "scopes")  # by whoever trusts; the rest was learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """The peer as it is now, and the workers to wake: they have runs of it that it may not have here any more."""

    peer: PeerRecord
    wake: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untrusted:
    """The runs that were given up because the node has them, those that it sent here, and the workers to wake."""

    failed: tuple[str, ...]
    cancelled: tuple[str, ...]
    wake: frozenset[str]


def trust(store: Store, peer: PeerRecord, *, key_id: str, keep: Collection[str], by: Actor) -> Trusted:
    """Act from now on upon what a node signs, as far as it may; *keep* names fields that stay as they were.

    What this node has learnt of it stays, but for why it could not be reached at another address. Runs that it sent here, and may not have here any more, are cancelled.

    Raises:
        ConflictError: another peer has this Matrix user or this public key.
    """
    now_us = peer.trusted_at_us
    old = store.peers.get(peer.node_id)
    if old is not None:
        peer = replace(old, **{name: getattr(peer, name) for name in _SAID if name not in keep})
        if peer.url != old.url:
            peer = replace(peer, fault=None)
    store.peers.put(peer)
    still_allowed = peer.scopes if EXECUTE in peer.may else ()
    stopped = _stop_what_it_sent(store, peer.node_id, but=still_allowed, now_us=now_us)
    where = "" if peer.scopes is None else f", in scopes {listed(peer.scopes)}"
    subject = f"{peer.node_id} {key_id} may {','.join(peer.may)}{where}"
    append_audit(store.audit, by, action="node.trust", subject=subject, now_us=now_us)
    return Trusted(peer=peer, wake=frozenset(run.worker_id for run in stopped))


def untrust(store: Store, node_id: str, *, by: Actor, now_us: int) -> Untrusted:
    """Stop trusting a node; runs that it has for this node are given up, those that it sent here cancelled.

    Raises:
        NotFoundError: it is not trusted.
    """
    peer = store.peers.get(node_id)
    if peer is None:
        raise NotFoundError("node", node_id, hint="'cis node list' shows those that are trusted")
    stopped = _stop_what_it_sent(store, node_id, but=(), now_us=now_us)
    failed = []
    for remote in store.remotes.open(RemoteRole.SENT):
        if remote.peer_id == node_id:
            error = f"node {node_id} has it, and is not trusted any more"
            run = undeliverable(store, remote.run_id, error=error, now_us=now_us)
            if run is not None:
                post_control(store, run, "cancel", now_us=now_us)  # or it would go on with it, for nobody
                failed.append(run.run_id)
    store.peers.delete(node_id, farewell_until_us=now_us + round(CONTROL_FOR_S * 1e6))
    append_audit(store.audit, by, action="node.untrust", subject=node_id, now_us=now_us)
    cancelled = tuple(run.run_id for run in stopped)
    return Untrusted(failed=tuple(failed), cancelled=cancelled, wake=frozenset(run.worker_id for run in stopped))


def _stop_what_it_sent(store: Store, node_id: str, *, but: Patterns | None, now_us: int) -> list[RunRecord]:
    """Cancel the runs that a node sent here, *but* those of scopes that it may use: rights hold while a run does.

    What they start in other scopes is cancelled too.
    """
    found = []
    for remote in store.remotes.open(RemoteRole.RECEIVED):
        run = store.runs.get(remote.run_id) if remote.peer_id == node_id else None
        if run is not None:
            found += _stop(store, run, but=but, now_us=now_us)
    return found


def _stop(store: Store, run: RunRecord, *, but: Patterns | None, now_us: int) -> list[RunRecord]:
    if run.status.final or but is None:
        return []
    if not allows(but, run.scope):
        return [cancel(store, run.run_id, now_us=now_us)]
    return [
        stopped for child in store.runs.children(run.run_id) for stopped in _stop(store, child, but=but, now_us=now_us)
    ]
