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
    │   ├── AlreadyRunningError       a lock is held by another process
    │   ├── LockGoneError             a lock whose file was removed or replaced
    │   ├── NodeIdKeptError           a flag against the id that the home has kept
    │   └── HomeElsewhereError        a home that woke up on another machine or path
    ├── NodeError
    │   ├── UnknownNodeError
    │   ├── NodeUnreachableError
    │   └── RoomError                 something about the room failed
    │       ├── RoomUnreachableError  no answer from the homeserver
    │       ├── RoomLimitedError      it wants fewer requests
    │       └── RoomRefusedError      it answered no
    ├── NotAllowedError
    │   ├── ScopeForbiddenError       not in this scope
    │   └── NotAuthenticatedError
    │       └── UntrustedError        a message that no trusted node signed
    ├── MalformedMessageError         a malformed message
    ├── MessageRefusedError           one that is not acted upon
    ├── SlowRequestError              a body that takes too long
    ├── OverloadedError               full: try again later
    │   └── ShareExceededError        one token, peer or scope has all of its share
    ├── StoreError
    │   ├── StoreBusyError            locked by others for too long
    │   ├── StoreFullError            no room on its disk
    │   ├── StoreUnsureError          the connection was lost at a commit: it may be stored
    │   ├── StorePoolerError          a pooler gives our session to others
    │   ├── StoreReadOnlyError        its disk or its rights refuse to be written
    │   ├── StoreNewerError           its schema is of a newer program
    │   ├── StoreGoneError            the file was removed or replaced under us
    │   ├── StoreDamagedError         the file is not what SQLite wrote
    │   ├── StoreRefusedError         a row that it never takes
    │   ├── FencedError               a newer epoch holds this worker's id
    │   ├── LeaseLostError            a worker could not renew its lease
    │   └── PoisonRecordError         a row that cannot be read
    ├── LaunchError                   a task whose process could not be started
    │   └── TooLongError              its command or environment is longer than the system takes
    ├── ShortageError                 no process, descriptor or memory left on this machine
    └── OrphanError                   a process of a dead worker that KILL does not end

``code`` is stable; ``http_status`` and ``exit_status`` are what the API and the shell answer.
The message is built here, says what happened and, where there is one, the way out.
"""

from __future__ import annotations

from cis.errors.base import (
    AlreadyRunningError,
    AmbiguousScopeError,
    CisError,
    ConfigError,
    ConflictError,
    DocumentError,
    DocumentTooLargeError,
    Fault,
    HomeElsewhereError,
    IdempotencyConflictError,
    IllegalStateError,
    LockGoneError,
    MalformedDocumentError,
    NodeIdKeptError,
    NotFoundError,
    StaleVersionError,
    UsageError,
    WorkerConflictError,
)
from cis.errors.nodes import (
    MalformedMessageError,
    MessageRefusedError,
    NodeError,
    NodeUnreachableError,
    NotAllowedError,
    NotAuthenticatedError,
    OverloadedError,
    RoomError,
    RoomLimitedError,
    RoomRefusedError,
    RoomUnreachableError,
    ScopeForbiddenError,
    ShareExceededError,
    SlowRequestError,
    UnknownNodeError,
    UntrustedError,
)
from cis.errors.work import (
    FencedError,
    LaunchError,
    LeaseLostError,
    OrphanError,
    PoisonRecordError,
    ShortageError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreGoneError,
    StoreNewerError,
    StorePoolerError,
    StoreReadOnlyError,
    StoreRefusedError,
    StoreUnsureError,
    TooLongError,
)

__all__ = [
    "AlreadyRunningError",
    "AmbiguousScopeError",
    "CisError",
    "ConfigError",
    "ConflictError",
    "DocumentError",
    "DocumentTooLargeError",
    "Fault",
    "FencedError",
    "HomeElsewhereError",
    "IdempotencyConflictError",
    "IllegalStateError",
    "LaunchError",
    "LeaseLostError",
    "LockGoneError",
    "MalformedDocumentError",
    "MalformedMessageError",
    "MessageRefusedError",
    "NodeError",
    "NodeIdKeptError",
    "NodeUnreachableError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "NotFoundError",
    "OrphanError",
    "OverloadedError",
    "PoisonRecordError",
    "RoomError",
    "RoomLimitedError",
    "RoomRefusedError",
    "RoomUnreachableError",
    "ScopeForbiddenError",
    "ShareExceededError",
    "ShortageError",
    "SlowRequestError",
    "StaleVersionError",
    "StoreBusyError",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreGoneError",
    "StoreNewerError",
    "StorePoolerError",
    "StoreReadOnlyError",
    "StoreRefusedError",
    "StoreUnsureError",
    "TooLongError",
    "UnknownNodeError",
    "UntrustedError",
    "UsageError",
    "WorkerConflictError",
]
