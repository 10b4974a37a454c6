"""The database, and the processes of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from cis.errors.base import CisError


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


class StoreUnsureError(StoreError):
    """The connection was lost while a change was stored: it may be there. Look, or ask again with the same key."""

    code = "store.unsure"
    retry_after_s = 5

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"the connection to {path} was lost while a change was stored: look whether it is there")


class StorePoolerError(StoreError):
    """Between this program and its database is a pooler that gives a session to others as well: go round it."""

    code = "store.pooler"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} is a pooler in transaction mode, which gives our session to others between two transactions: set"
            " 'pool_mode = session' for this database there, or name the server's own address in 'store'"
        )


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


class StoreNewerError(StoreError):
    """The database has a newer schema than this program knows: install the newer one, and start it in place of this."""

    code = "store.newer"

    def __init__(self, path: str, *, schema: int, known: int) -> None:
        self.path = path
        self.schema = schema
        self.known = known
        super().__init__(f"{path} has schema {schema}, this program knows {known}; install a newer cis-dag")


class StoreGoneError(StoreError):
    """The database was removed or replaced while this process had it open: it ends, and what it ran is ended."""

    code = "store.gone"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path} was removed or replaced while it was in use; start again over the one that is there now"
        )


class StoreDamagedError(StoreError):
    """The file is no database, or was damaged: ``cis db restore`` puts a backup in its place."""

    code = "store.damaged"

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"{path} is damaged ({why}); see 'cis db check' and 'cis db restore'")


class StoreRefusedError(StoreError):
    """The database never takes this row: it is too large, or breaks a rule of its table. Its run is set aside."""

    code = "store.refused"

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"{path} refuses a row: {why}")


class FencedError(StoreError):
    """A newer epoch took this worker's id over: the writer stops, its write changed nothing."""

    code = "store.fenced"
    exit_status = 4

    def __init__(self, worker_id: str, epoch: int) -> None:
        self.worker_id = worker_id
        self.epoch = epoch
        super().__init__(f"{worker_id} was taken over by a newer process; this one has epoch {epoch}")


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


class TooLongError(LaunchError):
    """Its command or environment is longer than the system takes, so the next attempt would fail likewise."""

    code = "task.too_long"


class ShortageError(CisError):
    """The machine has no process, descriptor or memory left for this: what runs goes on; make room, and try again."""

    code = "machine.shortage"
    http_status = 503
    exit_status = 5

    def __init__(self, short_of: str) -> None:
        self.short_of = short_of
        super().__init__(f"the machine is short of something: {short_of}")


class OrphanError(CisError):
    """What a dead worker's task left behind survives KILL: its task must not start again beside it.

    Such a process hangs in the kernel (a dead network disk) or belongs to another user (``sudo``): end it by hand.
    """

    code = "task.orphan"
    http_status = 503

    def __init__(self, pids: Sequence[int], *, timeout_s: float) -> None:
        self.pids = tuple(pids)
        numbers = ", ".join(str(pid) for pid in self.pids)
        super().__init__(f"still there {timeout_s:g} s after KILL: process {numbers}; end it by hand")
