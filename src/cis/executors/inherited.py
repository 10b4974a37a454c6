"""Children that a process was given by others: what tasks left, once their worker is gone, and, to PID 1 of a container, anybody's."""

from __future__ import annotations

import os
from collections.abc import Container
from contextlib import suppress

from cis.executors.platform import is_dead
from cis.executors.processes import children_of


class Inherited:
    """Reaps them when they have ended, so that no zombies pile up; nothing else is done to them.

    What ended between two looks is let be until the next: whoever started it here takes its status at once.
    """

    def __init__(self) -> None:
        self._ended: set[int] = set()

    def reap(self, mine: Container[int]) -> None:
        """Reap the children that had ended by the last look already, but those in *mine*, for which somebody waits."""
        try:
            ended = {pid for pid in children_of(os.getpid()) if pid not in mine and is_dead(pid)}
        except OSError:  # there is no descriptor to look with: at the next look, perhaps
            return
        for pid in ended & self._ended:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._ended = ended
