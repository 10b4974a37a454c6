"""Where the files of an attempt lie.

    logs/<run_id>/<task_no>.<attempt>.out, .err         what it wrote, once it has written something
    logs/<run_id>/<task_no>.<attempt>.times             when, if it wrote more than once to one of them
    logs/.live/<run_id>.<task_no>.<attempt>.outputs     its named outputs, until its end
    logs/.live/<run_id>.<task_no>.<attempt>.script      its command, where that is a file for another program than a shell

Numbers, not task ids, so that two ids that differ only in case stay apart on every file system. Many runs say
nothing, so a run's folder is made with the first file in it; the outputs, which attempts have only while they live, are
in one folder for all, whose name is no id of a run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

LIVE = ".live"
WORKERS = "workers"  # what they say themselves
OUTPUTS = re.compile(r"(.+)\.[0-9]+\.[0-9]+\.(?:outputs|script)")  # as ``LogFiles.paths`` has it; first its run


class AttemptFiles(NamedTuple):
    """The files of one attempt: what it wrote to its two streams, and its named outputs.

    Plain strings: they are made thousands of times a second, and a ``Path`` costs as much as the rest.
    """

    stdout: str
    stderr: str
    outputs: str

    @property
    def times(self) -> str:
        """When what was written, once the attempt is over (``cis.engine.observe.growing``)."""
        return self.stdout.removesuffix(".out") + ".times"


def script_beside(outputs: str) -> str:
    """Return the file for the command of the attempt whose outputs are there."""
    return outputs.removesuffix("outputs") + "script"


class LogFiles(NamedTuple):
    """The folder of all logs: names the files of attempts, and makes their folders."""

    root: Path

    @property
    def live(self) -> Path:
        """The folder of outputs that are not read yet."""
        return self.root / LIVE

    def folder(self, run_id: str) -> Path:
        """Return the folder of one run's logs, which may not exist."""
        return self.root / run_id

    def prepare(self, run_id: str) -> None:
        """Make the folder of a run, mode 0700; harmless when repeated."""
        self.folder(run_id).mkdir(mode=0o700, parents=True, exist_ok=True)

    def prepare_live(self) -> None:
        """Make the folder ``live``, mode 0700, if it is not there."""
        if not os.path.isdir(f"{self.root}/{LIVE}"):  # noqa: PTH112 - at each turn, and a ``Path`` costs ten times that
            self.live.mkdir(mode=0o700, parents=True, exist_ok=True)

    def paths(self, run_id: str, task_no: int, attempt: int) -> AttemptFiles:
        """Return the files of one attempt (they need not exist)."""
        root = self.root
        stem = f"{root}/{run_id}/{task_no}.{attempt}"
        return AttemptFiles(f"{stem}.out", f"{stem}.err", f"{root}/{LIVE}/{run_id}.{task_no}.{attempt}.outputs")
