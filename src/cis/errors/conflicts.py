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


class LockGoneError(ConflictError):
    """The lock file of this process was removed or replaced: it ends, since another one could run beside it."""

    code = "lock.gone"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} was removed or replaced while it was held; start again, and leave 'run' alone meanwhile"
        )


class NodeIdKeptError(ConflictError):
    """A flag or a variable names another node than the one whose home this is: leave it out, or edit ``cis.toml``."""

    code = "home.node_id"

    def __init__(self, given: str, *, place: str, kept: str) -> None:
        self.given = given
        self.place = place
        self.kept = kept
        self.fault = (
            f"says {given!r}, but this home is node {kept!r} and keeps that id, since its runs have it; leave it "
            f'out, use another CIS_HOME, or, to give this node another id, write id = "{given}" under [node] in cis.toml'
        )
        super().__init__(f"{place} {self.fault}")


class HomeElsewhereError(ConflictError):
    """This home woke up on another machine or path: say ``cis init --moved`` or ``cis init --copied``."""

    code = "home.elsewhere"

    def __init__(self, node_id: str, *, was: str, now: str) -> None:
        self.node_id = node_id
        super().__init__(
            f"this is the home of node {node_id!r}, which lived {was} and is {now}: nothing is started or changed, "
            "reading works. If it was moved, and nothing runs there any more: 'cis init --moved'. If it is a copy: "
            "'cis init --copied' (a new node id and key, nothing of the old queue)"
        )
