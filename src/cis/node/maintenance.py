"""The thread of a node that forgets what is old, a little at a time (``cis.engine.pruner``)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from cis.engine.ageclock import AgeClock
from cis.engine.instant import Instant
from cis.engine.logfiles import LogFiles
from cis.engine.pruner import Cutoff, Pruner, Retention
from cis.errors import CisError
from cis.node.settings import Settings
from cis.store.port import Store

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 3600.0
LEAST_PAUSE_S = 0.01


def retention_of(settings: Settings) -> Retention:
    """Return what the settings keep."""
    return Retention(max_age_s=settings.max_age_s, max_runs=settings.max_runs, max_log_age_s=settings.max_log_age_s)


class Maintenance:
    """Prunes once every *every_s*; between two steps of a round it rests for as long as the last one took."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        logfiles: LogFiles,
        keep: Retention,
        *,
        every_s: float,
        clock: Callable[[], Instant],
    ) -> None:
        self._open_store = open_store
        self._logfiles = logfiles
        self._keep = keep
        self._every_s = every_s
        self._clock = clock
        ages = [age for age in (keep.max_age_s, keep.max_log_age_s) if age is not None]
        self._shortest_s = min([SWEEP_EVERY_S, *ages])
        self._swept_s = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="maintenance", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the step that is being done. Harmless when repeated."""
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        ages = AgeClock(self._clock())
        while not self._stop.wait(self._every_s):
            try:
                self._round(ages)
            except CisError as error:
                log.error("nothing can be pruned now; trying again", extra={"error": str(error)})
            except Exception:  # a node whose disk fills up because this thread is gone would be worse
                log.exception("pruning failed; trying again")

    def _round(self, ages: AgeClock) -> None:
        now = self._clock()
        cutoff = Cutoff(now_us=ages.read(now), aged=ages.settled(within_s=self._shortest_s))
        store = self._open_store()
        try:
            pruner = Pruner(store, self._logfiles, self._keep, elapsed_s=time.monotonic)
            self._drive(pruner.runs(cutoff))
            if cutoff.aged and now.mono_s - self._swept_s >= self._shortest_s:
                self._drive(pruner.leftovers(cutoff))
                self._swept_s = now.mono_s
        finally:
            store.close()
        tally = pruner.tally
        if tally.runs or tally.folders or tally.documents:
            facts = {"runs": tally.runs, "log_folders": tally.folders, "documents": tally.documents}
            log.info("pruned", extra=facts)

    def _drive(self, steps: Iterator[None]) -> None:
        begun_s = time.monotonic()
        for _ in steps:
            if self._stop.wait(max(LEAST_PAUSE_S, time.monotonic() - begun_s)):
                return
            begun_s = time.monotonic()
