"""What all errors have in common, and those of whoever asks: usage, settings, documents, names, and what contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Fault(NamedTuple):
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
    """The work of a project or user is asked for on a second node while the first still has some."""

    code = "scope.worker_conflict"

    def __init__(self, scope: str, *, dag_id: str, wanted: str, busy: str, run_id: str, busy_dag_id: str) -> None:
        self.scope = scope
        self.run_id = run_id
        super().__init__(
            f"DAG {dag_id} names node {wanted!r}, but {scope} still has work on node {busy!r}: run {run_id} of "
            f"{busy_dag_id}. Wait for that run, cancel it ('cis dag cancel {busy_dag_id} --run {run_id}'), name node "
            f"{busy!r}, give the DAG another scope:, or write spread: true into its document if the work of the scope "
            "may be in two places at once"
        )


class IdempotencyConflictError(ConflictError):
    """An idempotency key came back with another document or other parameters: use a new key for new work."""

    code = "submit.idempotency_conflict"

    def __init__(self, key: str, run_id: str, *, what: str = "document is another one") -> None:
        self.key = key
        self.run_id = run_id
        super().__init__(f"key {key!r} was used for run {run_id}, whose {what}; use a new key")


class IllegalStateError(ConflictError):
    """The state machine has no such arrow; final states are final (``rerun`` makes a new run).

    *because* says it in the words of whoever asked for it.
    """

    code = "state.illegal"

    def __init__(self, what: str, old: str, new: str, *, because: str = "") -> None:
        self.what = what
        self.old = old
        self.new = new
        super().__init__(f"{what} is {old}{because}" if because else f"{what} is {old} and cannot become {new}")


class StaleVersionError(ConflictError):
    """The row changed after it was read: read it again, then decide again."""

    code = "store.stale_version"

    def __init__(self, what: str, version: int) -> None:
        self.what = what
        self.version = version
        super().__init__(f"{what} was changed meanwhile (it is past version {version}); ask again")


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
