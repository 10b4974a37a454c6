"""Who a bearer of a token is: the node's own token, a file, or one of those in the store.

Only hashes are compared. The hash of what the caller sent reveals nothing about the hash that is sought, and the
comparison takes the same time wherever they differ.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from cis.api.ports import ADMIN, OWNER_NAME, Rights
from cis.store.port import Store
from cis.store.records import TokenRecord

REMEMBER_S = 5.0
MAX_REMEMBERED = 256
OWNER = Rights(OWNER_NAME, frozenset({ADMIN}))


class OwnToken:
    """The token in the node's own file, read again whenever the file changed, so that rotating it needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._digest = b""

    def matches(self, digest: bytes) -> bool:
        """Whether *digest* is that of the token; never when there is no token."""
        self._refresh()
        return bool(self._digest) and hmac.compare_digest(digest, self._digest)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            token = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            self._stamp, self._digest = None, b""
            return
        self._stamp = stamp
        self._digest = hashlib.sha256(token.encode()).digest() if token else b""


class ReadStore(Protocol):
    """Reads the store in a thread, as ``NodeServices.read`` does."""

    def __call__(self, function: Callable[[Store], TokenRecord | None], /) -> Awaitable[TokenRecord | None]: ...


class TokenCheck:
    """Finds the rights of a token. What the store says is remembered for ``REMEMBER_S``: a revoked one ends then."""

    def __init__(self, own: OwnToken, *, read: ReadStore, clock_s: Callable[[], float]) -> None:
        self._own = own
        self._read = read
        self._clock_s = clock_s
        self._known: OrderedDict[str, tuple[float, Rights]] = OrderedDict()

    async def rights(self, token: str) -> Rights | None:
        """Return what the bearer of *token* may, or None when nobody knows it."""
        digest = hashlib.sha256(token.encode(errors="replace"))
        if self._own.matches(digest.digest()):
            return OWNER
        name = digest.hexdigest()
        known = self._known.get(name)
        if known is not None and known[0] > self._clock_s():
            return known[1]
        record = await self._read(lambda store: store.token_by_sha256(name))
        self._known.pop(name, None)
        if record is None or not hmac.compare_digest(record.sha256, name):
            return None
        # One of that name was made before it was kept for the node's own token; it gets none of what that is spared.
        actor = f"{OWNER_NAME} (a token)" if record.name == OWNER_NAME else record.name
        rights = Rights(actor, frozenset(record.may), record.scopes)
        self._known[name] = (self._clock_s() + REMEMBER_S, rights)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return rights
