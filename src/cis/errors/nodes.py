"""Other nodes and the room: who cannot be reached, is not allowed, or is not understood; and a node that is full."""

from __future__ import annotations

from collections.abc import Sequence

from cis.errors.base import CisError


class NodeError(CisError):
    """A node or peer is not there."""

    code = "node"
    http_status = 502
    exit_status = 5


class UnknownNodeError(NodeError):
    """``target_node`` names a node that this one does not know."""

    code = "node.unknown"
    http_status = 422

    def __init__(self, wanted: str, *, known: Sequence[str]) -> None:
        self.wanted = wanted
        self.known = tuple(known)
        super().__init__(f"target_node {wanted!r} is not known here; known: {', '.join(known)}")


class NodeUnreachableError(NodeError):
    """No answer from a node: start it with ``cis node start``, or look at its log."""

    code = "node.unreachable"


class RoomError(NodeError):
    """The room does not work as it should: ``cis room status`` says what is wrong."""

    code = "room"


class RoomUnreachableError(RoomError):
    """No answer from the homeserver: what is to be sent waits, and is sent when it is back."""

    code = "room.unreachable"


class RoomLimitedError(RoomError):
    """The homeserver wants fewer requests: wait, and lift the limit for this user (``docs/howto/room.md``)."""

    code = "room.limited"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class RoomRefusedError(RoomError):
    """The homeserver answered no; ``errcode`` is its reason (Matrix client-server API)."""

    code = "room.refused"

    def __init__(self, message: str, *, errcode: str, status: int) -> None:
        self.errcode = errcode
        self.status = status
        super().__init__(message)


class NotAllowedError(CisError):
    """Authenticated, but without the right that this takes."""

    code = "auth.forbidden"
    http_status = 403
    exit_status = 6


class ScopeForbiddenError(NotAllowedError):
    """Whoever hands this DAG in may not use its scope: name one of theirs, or have the node's owner widen it."""

    code = "scope.forbidden"

    def __init__(self, scope: str, *, asker: str, allowed: str) -> None:
        self.scope = scope
        super().__init__(
            f"{asker} may not run DAGs of scope {scope}, only of {allowed}; write one of these as scope: into the "
            "document, or have the owner of the node allow more"
        )


class NotAuthenticatedError(NotAllowedError):
    """No token, or one that is not known: ``cis token show`` prints the node's own."""

    code = "auth.unauthenticated"
    http_status = 401


class UntrustedError(NotAuthenticatedError):
    """No trusted node signed this message: ``cis node trust`` on the receiving node names whom it trusts."""

    code = "message.untrusted"


class MalformedMessageError(CisError):
    """What came is no message of a node: the two may run programs of different versions."""

    code = "message.malformed"
    http_status = 400
    exit_status = 2


class MessageRefusedError(CisError):
    """A message of a trusted node is refused for good; its ``code`` says why, and travels back to the sender."""

    code = "message.refused"
    http_status = 403
    exit_status = 6

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(detail)


class SlowRequestError(CisError):
    """The body of a request came too slowly: send it again, faster or in smaller parts; nothing was accepted."""

    code = "http.too_slow"
    http_status = 408
    exit_status = 5

    def __init__(self, part_s: float, body_s: float) -> None:
        super().__init__(
            f"the body came too slowly: {part_s:g} s for each part of it and {body_s:g} s for all is the limit"
        )


class OverloadedError(CisError):
    """A queue is at its bound: nothing was accepted; try again after ``retry_after_s``."""

    code = "overloaded"
    http_status = 503
    exit_status = 5

    def __init__(self, what: str, *, retry_after_s: int) -> None:
        self.what = what
        self.retry_after_s = retry_after_s
        super().__init__(f"{what}; try again in {retry_after_s} s")


class ShareExceededError(OverloadedError):
    """A token, peer or scope has its whole share of something: nothing was accepted, and others are not held up."""

    code = "overloaded.share"
    http_status = 429
