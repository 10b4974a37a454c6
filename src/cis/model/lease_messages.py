"""What an offer, a claim and a grant say about a lease: one form for each, read as strictly as any document.

A claim, and a status message that asks for a lease to be renewed, carries a *nonce*; the grant that answers it names
that nonce (``cis.federation.offers`` says why). Nodes of before know no nonces: their fields lack it, and it is None
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cis.errors import MalformedMessageError
from cis.model.dag import Json
from cis.model.ids import id_fault

MAX_LEASE_MS = 86_400_000
MAX_EPOCH = 2**31
MAX_LABELS = 1000
NONCE, NONCES = "nonce", "nonces"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTerms:
    """Whom an offer wants, and the lease that a grant would be. ``nonces``: grants will say which claim they answer."""

    epoch: int
    labels: tuple[str, ...]
    lease_ms: int
    nonces: bool

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> OfferTerms:
        """Read those of an offer. Raises MalformedMessageError."""
        labels, nonces = fields.get("labels", []), fields.get(NONCES, False)
        is_list = isinstance(labels, list) and len(labels) <= MAX_LABELS
        if not is_list or not all(isinstance(label, str) for label in labels) or not isinstance(nonces, bool):
            raise MalformedMessageError(
                f"an offer needs labels, {MAX_LABELS} texts at most, and {NONCES} true or false"
            )
        lease_ms = _number(fields, "lease_ms", most=MAX_LEASE_MS) if "lease_ms" in fields else 0
        return cls(
            epoch=_number(fields, "epoch", most=MAX_EPOCH), labels=tuple(labels), lease_ms=lease_ms, nonces=nonces
        )

    def fields(self) -> dict[str, Json]:
        """Return all but the epoch, as they travel and as an offer is kept."""
        return {"labels": list(self.labels), "lease_ms": self.lease_ms, NONCES: self.nonces}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A node could run what is offered under *epoch*; it has room for *free* more beside it."""

    node_id: str
    epoch: int
    free: int
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json], *, sender: str) -> Claim:
        """Read a claim. Raises MalformedMessageError."""
        if _text(fields, "node_id") != sender:
            raise MalformedMessageError("node_id is not its sender")
        return cls(
            node_id=sender,
            epoch=_number(fields, "epoch", most=MAX_EPOCH),
            free=_number(fields, "free", most=MAX_EPOCH) if "free" in fields else 0,
            nonce=read_nonce(fields),
        )

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        return {"node_id": self.node_id, "epoch": self.epoch, "free": self.free, NONCE: self.nonce}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A run is *node_id*'s (empty: nobody's) under *epoch*, for *lease_ms* from when *nonce* was asked."""

    node_id: str
    epoch: int
    lease_ms: int
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> Grant:
        """Read a grant. Raises MalformedMessageError."""
        grant = cls(
            node_id=_text(fields, "node_id"),
            epoch=_number(fields, "epoch", most=MAX_EPOCH),
            lease_ms=_number(fields, "lease_ms", most=MAX_LEASE_MS),
            nonce=read_nonce(fields),
        )
        if grant.node_id and not grant.lease_ms:
            raise MalformedMessageError("lease_ms is 0, which is no lease")
        return grant

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        named: dict[str, Json] = {"node_id": self.node_id, "epoch": self.epoch, "lease_ms": self.lease_ms}
        return named if self.nonce is None else {**named, NONCE: self.nonce}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Under which epoch a node holds a run (0: it was addressed), whether it had to suspend it, and what it asks."""

    epoch: int
    suspended: bool
    nonce: str | None

    @classmethod
    def read(cls, fields: Mapping[str, Json]) -> Standing:
        """Read that of a status message. Raises MalformedMessageError."""
        suspended = fields.get("suspended", False)
        if not isinstance(suspended, bool):
            raise MalformedMessageError("suspended must be true or false")
        return cls(epoch=_number(fields, "epoch", most=MAX_EPOCH), suspended=suspended, nonce=read_nonce(fields))

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        fields: dict[str, Json] = {"epoch": self.epoch}
        if self.suspended:
            fields["suspended"] = True
        return fields if self.nonce is None else {**fields, NONCE: self.nonce}


def read_nonce(fields: Mapping[str, Json]) -> str | None:
    """Return the nonce of a claim, a status message or a grant; None when it has none. Raises MalformedMessageError."""
    nonce = fields.get(NONCE)
    if nonce is not None and (not isinstance(nonce, str) or id_fault(nonce)):
        raise MalformedMessageError(f"{NONCE} is no id")
    return nonce


def _number(fields: Mapping[str, Json], name: str, *, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise MalformedMessageError(f"{name} must be a whole number from 0 to {most}")
    return value


def _text(fields: Mapping[str, Json], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or (value and id_fault(value)):
        raise MalformedMessageError(f"{name} must be the id of a node, or empty")
    return value
