"""Where the files of an attempt lie: ``logs/<run_id>/<task_no>.<attempt>.out``, ``.err`` and ``.outputs``.

Numbers, not task ids, so that two ids that differ only in case stay apart on every file system.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class AttemptFiles(NamedTuple):
    """The three files of one attempt: what it wrote to its two streams, and its named outputs.

    Plain strings: they are made thousands of times a second, and a ``Path`` costs as much as the rest.
    """

    stdout: str
    stderr: str
    outputs: str


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The folder of all logs; makes names, and each run's folder."""

    root: Path

    def folder(self, run_id: str) -> Path:
        """Return the folder of one run's logs, which may not exist yet."""
        return self.root / run_id

    def prepare(self, run_id: str) -> None:
        """Make the folder of a run, mode 0700; harmless when repeated."""
        self.folder(run_id).mkdir(mode=0o700, parents=True, exist_ok=True)

    def paths(self, run_id: str, task_no: int, attempt: int) -> AttemptFiles:
        """Return the files of one attempt (they need not exist)."""
        stem = f"{self.root}/{run_id}/{task_no}.{attempt}"
        return AttemptFiles(f"{stem}.out", f"{stem}.err", f"{stem}.outputs")
