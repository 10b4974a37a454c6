"""What messages say about a lease: an offer, a claim, a grant, and the status of who holds a run.

Each has one form, read as strictly as any document. A claim, and a status message that asks for a lease to be renewed,
carries a *nonce*; the grant that answers it names that nonce (``cis.federation.origin.arbiter`` says why). Nodes of
before know no nonces: their fields lack it, and it is None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cis.errors import MalformedMessageError
from cis.model.dag import Json
from cis.model.message import NONCE, NONCES, Fields

MAX_LEASE_MS = 86_400_000
MAX_EPOCH = 2**31
MAX_LABELS = 1000


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
        said = Fields(fields)
        labels, nonces = fields.get("labels", []), fields.get(NONCES, False)
        is_list = isinstance(labels, list) and len(labels) <= MAX_LABELS
        if not is_list or not all(isinstance(label, str) for label in labels) or not isinstance(nonces, bool):
            raise MalformedMessageError(
                f"an offer needs labels, {MAX_LABELS} texts at most, and {NONCES} true or false"
            )
        lease_ms = said.number("lease_ms", highest=MAX_LEASE_MS) if "lease_ms" in said else 0
        epoch = said.number("epoch", highest=MAX_EPOCH)
        return cls(epoch=epoch, labels=tuple(labels), lease_ms=lease_ms, nonces=nonces)

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
        said = Fields(fields)
        if said.node_id("node_id") != sender:
            raise said.fault("node_id", "is not its sender")
        return cls(
            node_id=sender,
            epoch=said.number("epoch", highest=MAX_EPOCH),
            free=said.number("free", highest=MAX_EPOCH) if "free" in said else 0,
            nonce=said.maybe_id(NONCE),
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
        said = Fields(fields)
        grant = cls(
            node_id=said.node_id("node_id"),
            epoch=said.number("epoch", highest=MAX_EPOCH),
            lease_ms=said.number("lease_ms", highest=MAX_LEASE_MS),
            nonce=said.maybe_id(NONCE),
        )
        if grant.node_id and not grant.lease_ms:
            raise said.fault("lease_ms", "is 0, which is not a lease")
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
        said = Fields(fields)
        return cls(
            epoch=said.number("epoch", highest=MAX_EPOCH),
            suspended=said.flag("suspended", absent=False),
            nonce=said.maybe_id(NONCE),
        )

    def fields(self) -> dict[str, Json]:
        """Return them as they travel."""
        fields: dict[str, Json] = {"epoch": self.epoch}
        if self.suspended:
            fields["suspended"] = True
        return fields if self.nonce is None else {**fields, NONCE: self.nonce}
