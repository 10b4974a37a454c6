"""Lasting attempts, as a worker's executor sees them: guardians that it started, and guardians that it took up from another.

The end of one's own guardian is seen as that of any child, the end of another's by its ``alive``
(``cis.executors.attempt_folder``), or by looking once a second where nothing more can be waited for. A guardian that
ended without a word was killed, or the machine went down: whatever it left is ended by its marks, and then the attempt
is lost.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL
from typing import IO

from cis.engine.ports import Exit, Fate, Launch, Orphan, ProcessId, StrPath, TakenUp
from cis.engine.shortage import shortage_of
from cis.errors import LaunchError, OrphanError
from cis.executors.attempt_folder import BEGUN, END, KILL, AttemptFolders, NotUnderstoodError, held_open
from cis.executors.exits import ExitWatch, Process
from cis.executors.linux.descendants import Descendants
from cis.executors.linux.stamps import Stamping, stamp_of
from cis.executors.orphans import kill_orphans
from cis.executors.platform import kill_process

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guardian.py")
_MARK = "CIS_"
_LOCALE = ("LANG", "LC_ALL", "LC_CTYPE", "PATH")
_GIVEN_UP = "this attempt was given up before it could begin"
_WITHOUT_A_WORD = "the process that led it was killed"
_DEAF = 5  # orders to kill, a second apart, after which a guardian is killed itself
_AGAIN_S = 0.1
_LOOK_S = 1.0
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianOptions:
    """How guardians of this executor run their tasks."""

    cap: int
    nice: int
    grace_s: float
    portable: bool
    home: StrPath | None


@dataclass(slots=True)
class _Guarded:
    """One attempt: its guardian is a child (``process``), or somebody else's, of whose end ``alive`` tells."""

    handle: str
    marks: Mapping[str, str]
    process: Process | None = None
    alive: int | None = None
    listened: bool = False
    kills: int = 0
    over: bool = False


class GuardedAttempts:
    """The lasting attempts of one executor, which waits with *exits* and knows what descends from it by *descendants*.

    Their folders are in *root*, which all executors of a home share; without it there are none.
    """

    def __init__(
        self, root: StrPath | None, options: GuardianOptions, *, exits: ExitWatch, descendants: Descendants
    ) -> None:
        self._possible = root is not None
        self.folders = AttemptFolders(root or os.devnull)
        self._options = options
        self._exits = exits
        self._descendants = descendants
        self._stamping = Stamping()
        self._all: dict[str, _Guarded] = {}
        self._by_pid: dict[int, _Guarded] = {}
        self._by_alive: dict[int, _Guarded] = {}
        self.due_s = _NEVER  # when ``collect`` has something to do

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, handle: str) -> bool:
        return handle in self._all

    def start(self, launch: Launch) -> None:
        """Start the guardian of an attempt.

        Raises:
            LaunchError: it cannot be started. What its task cannot be started for, its end tells.
        """
        if not self._possible:
            raise LaunchError("there is no folder for what is kept of lasting attempts")
        stamp = stamp_of(launch.marks, home=self._options.home)
        try:
            with self.folders.made(launch.handle) as (alive, orders):
                order = self._order(launch, alive=alive, orders=orders)
                with self._stamping(stamp):
                    process, pipe = _started(launch, passed=(alive, orders))
        except FileExistsError as error:
            raise LaunchError(_GIVEN_UP) from error
        except OSError as error:
            why = f"the process that leads the task cannot be started: {error.strerror}"
            raise LaunchError(why) from error
        guarded = _Guarded(launch.handle, launch.marks, process)
        self._exits.add(process)
        self._descendants.begin(process.pid, stamp=stamp, marks=launch.marks)
        self._all[launch.handle] = self._by_pid[process.pid] = guarded
        with suppress(OSError), pipe:  # it is gone again: its end tells
            left = memoryview(order)
            while left:
                left = left[pipe.write(left) :]

    def take_up(self, handle: str, marks: Mapping[str, str]) -> TakenUp:
        """Say what became of an attempt; one that runs is waited for from now on."""
        if not self._possible:
            return TakenUp(Fate.GONE)
        try:
            alive = self.folders.watch(handle)
            if alive is None:
                return self._found_nobody(handle, marks)
        except NotUnderstoodError as error:
            return TakenUp(Fate.UNKNOWN, why=f"{error}; start that version")
        except (OSError, OrphanError) as error:
            return TakenUp(Fate.UNKNOWN, why=shortage_of(error) or str(error))
        self._all[handle] = self._by_alive[alive] = guarded = _Guarded(handle, marks, alive=alive)
        self._listen(guarded, alive)
        return TakenUp(Fate.RUNNING)

    def end(self, handle: str, *, force: bool) -> None:
        """Have the guardian end its task; one that does not hear is killed in the end."""
        guarded = self._all[handle]
        self.folders.order(handle, KILL if force else END)
        guarded.kills += force
        if guarded.kills > _DEAF and not guarded.over:
            self._kill_guardian(guarded)

    def identity(self, handle: str) -> ProcessId | None:
        """Return the first process of the task, once its guardian has told. Raises OSError for a shortage."""
        return self.folders.process(handle)

    def let_go(self, handle: str) -> bool:
        """Leave an attempt to whoever takes it up next; False: it has ended."""
        guarded = self._all.get(handle)
        if guarded is None or guarded.over:
            return False
        self._drop(guarded)
        return True

    def child_ended(self, process: Process) -> bool:
        """Take in the end of a child, if it is a guardian."""
        guarded = self._by_pid.get(process.pid)
        if guarded is None:
            return False
        guarded.over = True
        self.due_s = 0.0
        return True

    def readable(self, descriptor: int) -> None:
        """Take in that a descriptor is readable, if it is that of a guardian."""
        guarded = self._by_alive.get(descriptor)
        if guarded is not None:
            guarded.listened = False
            self._look_at(guarded)

    def collect(self, now_s: float) -> list[Exit]:
        """Return the ends of attempts whose guardians are gone, when it is time."""
        if now_s < self.due_s:
            return []
        self.due_s = _NEVER
        exits = []
        for guarded in list(self._all.values()):
            if guarded.alive is not None and not guarded.over and not guarded.listened:
                self._look_at(guarded)
            if guarded.over:
                try:
                    exits.append(self._end_of(guarded))
                except (OSError, OrphanError):
                    self.due_s = min(self.due_s, now_s + _AGAIN_S)
                    continue
                except NotUnderstoodError:
                    self.due_s = min(self.due_s, now_s + _LOOK_S)
                    continue
                self._drop(guarded)
        return exits

    def close(self) -> None:
        """Leave all of them alone, and give all descriptors back."""
        for guarded in list(self._all.values()):
            self._drop(guarded)

    def _order(self, launch: Launch, *, alive: int, orders: int) -> bytes:
        options = self._options
        told = launch._replace(
            argv=list(launch.argv),
            env=dict(launch.env),
            cwd=os.fspath(launch.cwd),
            stdout=os.fspath(launch.stdout),
            stderr=os.fspath(launch.stderr),
            mask=list(launch.mask),
            marks=dict(launch.marks),
            lasting=False,
        )
        order = {
            "launch": told._asdict(),
            "folder": self.folders.path(launch.handle),
            "alive": alive,
            "orders": orders,
            "cap": options.cap,
            "nice": options.nice,
            "grace_s": options.grace_s,
            "portable": options.portable,
            "home": None if options.home is None else os.fspath(options.home),
        }
        return marshal.dumps(order)

    def _found_nobody(self, handle: str, marks: Mapping[str, str]) -> TakenUp:
        """Say what became of an attempt of which no guardian lives. Raises as ``_end_of`` does."""
        if self.folders.give_up(handle):
            return TakenUp(Fate.GONE)
        ended = self._end_of(_Guarded(handle, marks))
        return TakenUp(Fate.GONE) if ended.lost == _WITHOUT_A_WORD else TakenUp(Fate.ENDED, exit=ended)

    def _end_of(self, guarded: _Guarded) -> Exit:
        """Return what the guardian wrote; without a word of its, end what it left first.

        Raises:
            NotUnderstoodError: a newer program wrote it.
            OSError, OrphanError: nothing can be told yet, or some of it survives.
        """
        handle = guarded.handle
        try:
            ended = self.folders.ended(handle)
        except NotUnderstoodError:
            raise
        except ValueError as error:
            return Exit(handle=handle, exit_code=None, lost=f"how it ended cannot be read: {error}")
        if ended is not None:
            return ended
        process = self.folders.process(handle)
        options = self._options
        kill_orphans(
            [Orphan(process and process.pid, process and process.started, guarded.marks)],
            home=options.home,
            portable=options.portable,
            timeout_s=0.0,
        )
        return Exit(handle=handle, exit_code=None, pid=process and process.pid, lost=_WITHOUT_A_WORD)

    def _look_at(self, guarded: _Guarded) -> None:
        """See whether somebody else's guardian still lives, and wait for its end."""
        if guarded.alive is not None and held_open(guarded.alive):
            self._listen(guarded, guarded.alive)
            return
        guarded.over = True
        self.due_s = 0.0

    def _listen(self, guarded: _Guarded, alive: int) -> None:
        try:
            self._exits.listen(alive)
            guarded.listened = True
        except OSError:  # more than the system watches for one user
            self.due_s = min(self.due_s, time.monotonic() + _LOOK_S)

    def _kill_guardian(self, guarded: _Guarded) -> None:
        if guarded.process is not None:
            with suppress(ProcessLookupError):
                os.kill(guarded.process.pid, SIGKILL)  # a child that was not reaped keeps its number
            return
        found = self.folders.process(guarded.handle, BEGUN)
        if found is not None and found.started is not None:
            with suppress(OSError):
                kill_process(found.pid, found.started, timeout_s=0.0, portable=self._options.portable)

    def _drop(self, guarded: _Guarded) -> None:
        """Know nothing of an attempt any more; what it was allowed to leave stays."""
        del self._all[guarded.handle]
        if guarded.process is not None:
            del self._by_pid[guarded.process.pid]
            if guarded.over:
                self._descendants.look()
                self._descendants.forget(guarded.process.pid)
                self._exits.release(guarded.process)
        if guarded.alive is not None:
            del self._by_alive[guarded.alive]
            self._exits.unlisten(guarded.alive)
            os.close(guarded.alive)


def _started(launch: Launch, *, passed: tuple[int, int]) -> tuple[Process, IO[bytes]]:
    """Start a guardian that holds the descriptors *passed*; return it, and the pipe that it reads its order from."""
    marks = {name: value for name, value in launch.env.items() if name.startswith(_MARK)}
    locale = {name: os.environ[name] for name in _LOCALE if name in os.environ}
    flags = ["-I", "-S", *(["-X", "utf8"] if sys.flags.utf8_mode else [])]
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, *flags, _SCRIPT],
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=passed,
            cwd="/",
            env=locale | marks,
            start_new_session=True,
        )
    except OSError:
        os.close(theirs)
        raise
    finally:
        os.close(ours)
    return process, open(theirs, "wb", buffering=0)
