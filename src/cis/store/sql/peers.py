"""Whom this node trusts: the tables ``peers`` and ``farewells`` (where those were that it trusts no more)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cis.errors import ConflictError
from cis.model.scope_rules import written
from cis.store.sql.cluster_rows import FAULT_CHARS, PEER, peer_of
from cis.store.sql.rows import places_of, read, read_all

if TYPE_CHECKING:
    from cis.store.cluster import PeerRecord
    from cis.store.sql.database import Database

_PUT = (
    f"INSERT INTO peers ({PEER}) VALUES ({places_of(PEER)})"  # noqa: S608 - constants
    " ON CONFLICT (node_id) DO UPDATE SET public_key = excluded.public_key, may = excluded.may,"
    " trusted_at_us = excluded.trusted_at_us, url = excluded.url, matrix_user = excluded.matrix_user,"
    " contact_at_us = excluded.contact_at_us, clock_ahead_us = excluded.clock_ahead_us, fault = excluded.fault,"
    " scopes = excluded.scopes"
)
_KEY_TAKEN = "SELECT node_id FROM peers WHERE public_key = ? AND node_id != ?"
_USER_TAKEN = "SELECT node_id FROM peers WHERE matrix_user = ? AND node_id != ?"
_ONE = f"SELECT {PEER} FROM peers WHERE node_id = ?"  # noqa: S608 - constants
_BY_USER = f"SELECT {PEER} FROM peers WHERE matrix_user = ?"  # noqa: S608 - constants
_ALL = f"SELECT {PEER} FROM peers ORDER BY node_id"  # noqa: S608 - constants
_CONTACT = (
    "UPDATE peers SET contact_at_us = ?, clock_ahead_us = coalesce(?, clock_ahead_us), fault = NULL WHERE node_id = ?"
)

_FAREWELL = (
    "INSERT INTO farewells (node_id, public_key, url, matrix_user, until_us)"
    " SELECT node_id, public_key, url, matrix_user, ? FROM peers WHERE node_id = ?"
    " ON CONFLICT (node_id) DO UPDATE SET public_key = excluded.public_key, url = excluded.url,"
    " matrix_user = excluded.matrix_user, until_us = excluded.until_us"
)
_GONE = "SELECT public_key, url, matrix_user FROM farewells WHERE node_id = ?"


class PeerRows:
    """The peers' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, peer: PeerRecord) -> None:
        """Store a peer, in place of one of the same id. Raises ConflictError."""
        self._db.lock("peers")  # what is free here is free still when the row is written
        self._demand_free(_KEY_TAKEN, "public key", peer.public_key, peer.node_id)
        if peer.matrix_user is not None:
            self._demand_free(_USER_TAKEN, "Matrix user", peer.matrix_user, peer.node_id)
        self._db.write(
            _PUT,
            (
                peer.node_id,
                peer.public_key,
                ",".join(peer.may),
                peer.trusted_at_us,
                peer.url,
                peer.matrix_user,
                peer.contact_at_us,
                peer.clock_ahead_us,
                peer.fault,
                written(peer.scopes),
            ),
        )

    def _demand_free(self, sql: str, what: str, value: str, node_id: str) -> None:
        row = self._db.row(sql, (value, node_id))
        if row is not None:
            raise ConflictError(f"node {node_id} cannot have the {what} {value}: that of node {row[0]} is the same")

    def delete(self, node_id: str, *, farewell_until_us: int) -> bool:
        """Delete a peer, and keep until a time where it was; return whether there was one."""
        self._db.write(_FAREWELL, (farewell_until_us, node_id))
        return self._db.write("DELETE FROM peers WHERE node_id = ?", (node_id,)) == 1

    def get(self, node_id: str, *, or_farewell: bool = False) -> PeerRecord | None:
        """Return a peer, or also one that was."""
        row = self._db.held_row(_ONE, (node_id,))
        if row is not None:
            return read("peer", peer_of, row)
        gone = self._db.row(_GONE, (node_id,)) if or_farewell else None
        if gone is None:
            return None
        from cis.store.cluster import PeerRecord  # noqa: PLC0415 - few nodes are gone

        return PeerRecord(
            node_id=node_id, public_key=gone[0], may=(), trusted_at_us=0, url=gone[1], matrix_user=gone[2]
        )

    def by_user(self, matrix_user: str) -> PeerRecord | None:
        """Return the peer that speaks as this Matrix user."""
        row = self._db.row(_BY_USER, (matrix_user,))
        return None if row is None else read("peer", peer_of, row)

    def all(self) -> Sequence[PeerRecord]:
        """Return all peers by id."""
        return read_all("peer", peer_of, self._db.rows(_ALL))

    def note_contact(self, node_id: str, *, now_us: int, clock_ahead_us: int | None = None) -> None:
        """Record that a peer was heard, and forget its fault; None keeps the clock difference that is known."""
        self._db.write(_CONTACT, (now_us, clock_ahead_us, node_id))

    def note_fault(self, node_id: str, fault: str) -> None:
        """Record why a peer could not be reached."""
        self._db.write("UPDATE peers SET fault = ? WHERE node_id = ?", (fault[:FAULT_CHARS], node_id))
