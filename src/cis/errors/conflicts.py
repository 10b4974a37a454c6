"""Requests that contradict what already holds."""

from __future__ import annotations

from cis.errors.base import CisError


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
