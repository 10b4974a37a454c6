"""Every error of CIS-DAG, in one tree.

    CisError
    ├── UsageError                    a command line or a request that makes no sense
    ├── ConfigError                   faults of cis.toml, all at once
    ├── DocumentError                 faults of a DAG document, all at once
    │   ├── MalformedDocumentError    not YAML, JSON or TOML at all
    │   └── DocumentTooLargeError
    ├── NotFoundError                 no such run, DAG, task, worker …
    ├── ConflictError
    │   ├── AmbiguousScopeError       two tasks name two projects
    │   ├── WorkerConflictError       one worker on two target nodes
    │   ├── IdempotencyConflictError  one key, two documents
    │   ├── IllegalStateError         an arrow that the state machine lacks
    │   ├── StaleVersionError         somebody else moved first
    │   └── AlreadyRunningError       a lock is held by another process
    ├── NodeError
    │   ├── UnknownNodeError
    │   ├── NodeUnreachableError
    │   └── RoomError                 something about the room failed
    │       ├── RoomUnreachableError  no answer from the homeserver
    │       ├── RoomLimitedError      it wants fewer requests
    │       └── RoomRefusedError      it answered no
    ├── NotAllowedError
    │   └── NotAuthenticatedError
    │       └── UntrustedError        a message that no trusted node signed
    ├── MalformedMessageError         a message that is none
    ├── MessageRefusedError           one that is not acted upon
    ├── OverloadedError               full: try again later
    ├── StoreError
    │   ├── StoreBusyError            locked by others for too long
    │   ├── StoreFullError            no room on its disk
    │   ├── StoreReadOnlyError        its disk or its rights refuse to be written
    │   ├── StoreDamagedError         the file is not what SQLite wrote
    │   ├── FencedError               a newer epoch holds this worker's id
    │   ├── LeaseLostError            a worker could not renew its lease
    │   └── PoisonRecordError         a row that cannot be read
    ├── LaunchError                   a task whose process could not be started
    └── OrphanError                   a process of a dead worker that KILL does not end

``code`` is stable; ``http_status`` and ``exit_status`` are what the API and the shell answer.
The message is built here, says what happened and, where there is one, the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where: a path such as ``tasks[2].depends_on[0]``."""

    place: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}"
        at = f"{self.place} ({line})" if self.place and line else self.place or line
        return f"{at}: {self.message}" if at else self.message


class CisError(Exception):
    """Whatever CIS-DAG refuses or fails at; catch this one at the outermost edge."""

    code = "internal"
    http_status = 500
    exit_status = 1


class UsageError(CisError):
    """The command line or request cannot be understood: read the message and ask again."""

    code = "usage"
    http_status = 400
    exit_status = 2


class _FaultListError(CisError):
    """Faults of something written by a person, reported together."""

    exit_status = 2
    what = "input"

    def __init__(self, faults: Sequence[Fault], *, source: str | None = None) -> None:
        self.faults = tuple(faults)
        self.source = source
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        head = f"{source or self.what}: {count}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in self.faults)]))


class ConfigError(_FaultListError):
    """``cis.toml``, an environment variable or a flag is wrong: mend each place that is named."""

    code = "config.invalid"
    what = "configuration"


class DocumentError(_FaultListError):
    """A DAG document breaks its schema or its own promises: mend each place that is named."""

    code = "document.invalid"
    http_status = 422
    what = "DAG document"


class MalformedDocumentError(DocumentError):
    """The bytes are not a YAML, JSON or TOML mapping."""

    code = "document.malformed"
    http_status = 400


class DocumentTooLargeError(DocumentError):
    """The document is over its size limit: split it, or make a task of a script."""

    code = "document.too_large"
    http_status = 413

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        limit = f"{limit_bytes // 2**20} MiB"
        fault = Fault(place="", message=f"larger than the limit of {limit}; move data out of it into files")
        super().__init__([fault])


class NotFoundError(CisError):
    """Nothing of that name is here: the list commands show what is."""

    code = "not_found"
    http_status = 404
    exit_status = 3

    def __init__(self, kind: str, name: str, *, hint: str = "") -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {name!r}" + (f"; {hint}" if hint else ""))


class ConflictError(CisError):
    """The request contradicts something that already holds."""

    code = "conflict"
    http_status = 409
    exit_status = 4


class AmbiguousScopeError(ConflictError):
    """Two tasks name different projects (or users): name the scope, or split the DAG."""

    code = "scope.ambiguous"

    def __init__(self, variable: str, first: tuple[str, str], second: tuple[str, str]) -> None:
        self.variable = variable
        self.first = first
        self.second = second
        super().__init__(
            f"task {first[0]!r} has {variable}={first[1]!r} but task {second[0]!r} has {variable}={second[1]!r}; "
            "write an explicit scope: into the document, or split it into one DAG for each"
        )


class WorkerConflictError(ConflictError):
    """One worker is asked for on two nodes while the first still has work for it."""

    code = "scope.worker_conflict"

    def __init__(self, worker_id: str, *, wanted: str, busy: str, run_id: str) -> None:
        self.worker_id = worker_id
        self.wanted = wanted
        self.busy = busy
        self.run_id = run_id
        super().__init__(
            f"{worker_id} is asked for on node {wanted!r}, but run {run_id} still needs it on node {busy!r}; "
            f"wait for that run, cancel it, or use target_node: {busy}"
        )


class IdempotencyConflictError(ConflictError):
    """An idempotency key came back with another document: use a new key for new work."""

    code = "submit.idempotency_conflict"

    def __init__(self, key: str, run_id: str) -> None:
        self.key = key
        self.run_id = run_id
        super().__init__(f"key {key!r} belongs to run {run_id}, whose document is another one; use a new key")


class IllegalStateError(ConflictError):
    """The state machine has no such arrow; final states are final (``rerun`` makes a new run)."""

    code = "state.illegal"

    def __init__(self, what: str, old: str, new: str) -> None:
        self.what = what
        self.old = old
        self.new = new
        super().__init__(f"{what} is {old} and cannot become {new}")


class StaleVersionError(ConflictError):
    """The row changed after it was read: read it again, then decide again."""

    code = "store.stale_version"

    def __init__(self, what: str, version: int) -> None:
        self.what = what
        self.version = version
        super().__init__(f"{what} is past version {version}")


class AlreadyRunningError(ConflictError):
    """Another process holds the lock of this node or worker."""

    code = "lock.held"

    def __init__(self, what: str, *, holder: str) -> None:
        self.what = what
        self.holder = holder
        super().__init__(f"{what} already runs: its lock is held by {holder}")


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


class OverloadedError(CisError):
    """A queue is at its bound: nothing was accepted; try again after ``retry_after_s``."""

    code = "overloaded"
    http_status = 503
    exit_status = 5

    def __init__(self, what: str, *, retry_after_s: int) -> None:
        self.what = what
        self.retry_after_s = retry_after_s
        super().__init__(f"{what}; try again in {retry_after_s} s")


class StoreError(CisError):
    """The database refused or failed: ``cis doctor`` names the cause."""

    code = "store"
    http_status = 503


class StoreBusyError(StoreError):
    """Other processes held the database's write lock for too long: nothing was written; try again."""

    code = "store.busy"
    retry_after_s = 5

    def __init__(self, path: str, *, waited_s: int) -> None:
        self.path = path
        super().__init__(f"{path} was locked for {waited_s} s; try again, and see 'cis doctor' if it stays so")


class StoreFullError(StoreError):
    """The disk of the database is full: make room, and it goes on by itself."""

    code = "store.full"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path} cannot grow: the disk is full; make room and it goes on by itself")


class StoreReadOnlyError(StoreError):
    """The database may not be written: remount its disk, or give this user the right to write it and its folder."""

    code = "store.read_only"

    def __init__(self, path: str, *, mend: str) -> None:
        self.path = path
        self.mend = mend
        super().__init__(f"{path} cannot be written; {mend}")


class StoreDamagedError(StoreError):
    """The file is no database, or was damaged by a disk or by somebody: ``cis db restore`` puts a backup in its place."""

    code = "store.damaged"

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"{path} is damaged ({why}); see 'cis db check' and 'cis db restore'")


class FencedError(StoreError):
    """A newer epoch took this worker's id over: the writer stops, its write changed nothing."""

    code = "store.fenced"
    exit_status = 4

    def __init__(self, worker_id: str, epoch: int) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        super().__init__(f"{worker_id} epoch {epoch} was superseded")


class LeaseLostError(StoreError):
    """A worker could store nothing for a whole lease time: it ends its tasks and stops; another takes up its runs."""

    code = "store.lease_lost"


class PoisonRecordError(StoreError):
    """A stored row cannot be read back: it is set aside and reported, and the rest goes on."""

    code = "store.poison"

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        self.why = why
        super().__init__(f"{what} cannot be read: {why}")


class LaunchError(CisError):
    """A task's process could not be started; the message is the attempt's error."""

    code = "task.launch"
    http_status = 422


class OrphanError(CisError):
    """What a dead worker's task left behind survives KILL: its task must not start again beside it.

    Such a process hangs in the kernel (a dead network disk) or belongs to another user (``sudo``): end it by hand.
    """

    code = "task.orphan"
    http_status = 503

    def __init__(self, pids: Sequence[int], *, patience_s: float) -> None:
        self.pids = tuple(pids)
        numbers = ", ".join(str(pid) for pid in self.pids)
        super().__init__(f"still there {patience_s:g} s after KILL: process {numbers}; end it by hand")
