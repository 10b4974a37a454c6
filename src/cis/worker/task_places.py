"""The machine's places for tasks, as locked bytes of one file: the kernel frees those of a process that dies.

Byte 0, 1, … up to one less than ``most`` may be had by any worker; a place is a byte that this process has locked. One
more byte is kept for scopes that run nothing, so that a new one starts at once. While that one is *borrowed*, a worker
that runs something takes no other: a place that becomes free goes to a scope that has none, or to the borrower, who
then gives the kept one back.

Who has no place and finds none has a lock that may be shared on a byte of its own until it has one: so those whose
tasks follow one upon the other are told that somebody waits, and pass a place on.

A lock is taken and given up by one system call each, without anybody waiting. ``fcntl`` locks belong to the process:
tasks do not inherit them, and none is lost as long as this file is opened once.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

FILE = "places.lock"
_KEPT = 2**30  # the byte that is kept for scopes that run nothing
_WAITING = _KEPT + 1  # the byte of those that have none and wait
_TRIES = 64  # for the exchange of a borrowed place, each time
_TAKEN = (errno.EAGAIN, errno.EACCES)


class MachinePlaces:
    """``Places`` (``cis.engine.run.task_places``) of one process; *most* is how many there are for all of this home."""

    def __init__(self, path: Path, *, most: int) -> None:
        self.most = most
        self.borrowed = False
        self.waits = False
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._mine: list[int] = []
        self._next = 0

    @property
    def held(self) -> int:
        """How many places this worker has."""
        return len(self._mine) + self.borrowed

    def take(self) -> bool:
        """Take one more place: any if nothing runs here, else only while the kept one is free."""
        if self._take():
            self.wait_no_more()
            return True
        if not self.held and not self.waits:
            self.waits = self._lock(_WAITING, fcntl.LOCK_SH)
        return False

    def wait_no_more(self) -> None:
        """Let others know that none is wanted any more."""
        if self.waits:
            self._unlock(_WAITING)
            self.waits = False

    def others_wait(self) -> bool:
        """Whether another worker waits that has none."""
        if not self._lock(_WAITING):
            return True
        self._unlock(_WAITING)
        return False

    def _take(self) -> bool:
        self.give_back_borrowed()
        if self.held and not self._kept_is_free():
            return False
        if self._take_any(self.most - 1):
            return True
        if self.held:
            return False
        self.borrowed = self._lock(_KEPT)
        return self.borrowed

    def keep(self, number: int) -> None:
        """Give back all but *number*, the borrowed one first."""
        if self.borrowed and self.held > number:
            self._unlock(_KEPT)
            self.borrowed = False
        while len(self._mine) + self.borrowed > number:
            self._next = self._mine.pop()
            self._unlock(self._next)

    def give_back_borrowed(self) -> None:
        """Exchange the borrowed place for another, if one is free."""
        if self.borrowed and self._take_any(min(self.most - 1, _TRIES)):
            self._unlock(_KEPT)
            self.borrowed = False

    def close(self) -> None:
        """Give back all of them."""
        os.close(self._descriptor)

    def _take_any(self, tries: int) -> bool:
        for _ in range(tries):
            place, self._next = self._next, (self._next + 1) % max(1, self.most - 1)
            if place not in self._mine and self._lock(place):
                self._mine.append(place)
                return True
        return False

    def _kept_is_free(self) -> bool:
        if self.borrowed or not self._lock(_KEPT):
            return False
        self._unlock(_KEPT)
        return True

    def _lock(self, place: int, kind: int = fcntl.LOCK_EX) -> bool:
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            return error.errno not in _TAKEN  # a file system without locks bounds nothing
        return True

    def _unlock(self, place: int) -> None:
        with suppress(OSError):  # a file system without locks, where nothing is held
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)
