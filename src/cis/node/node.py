"""The node: the one place that wires store, supervisor, writer and hub into something that the API serves.

Beside it, ``Maintenance`` is the thread that forgets what is old, a little at a time (``cis.engine.upkeep.pruner``).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from cis.engine.logfiles import LogFiles
from cis.engine.times import Instant
from cis.engine.upkeep.pruner import Cutoff, Pruner, Retention
from cis.errors import CisError, LockGoneError, StoreError, StoreGoneError, StoreNewerError
from cis.federation.executing.first_word import FirstWord
from cis.node.clock import AgeClock, now_awake_or_asleep
from cis.node.cluster import Cluster, room_settings
from cis.node.handle import NodeHandle
from cis.node.home import Home, announcement_path, node_lock_path
from cis.node.hub import EventHub
from cis.node.identity import KeyFile, replace_file
from cis.node.residence import take_up
from cis.node.settings import Settings
from cis.node.store_threads import Readers, Writer
from cis.node.tables import TomlSecrets
from cis.node.this_node import make_this_node
from cis.node.workers import make_supervisor
from cis.skills.registry import InstalledSkills
from cis.store import adapter_of, open_bells, open_store
from cis.store.port import Store
from cis.worker.bell import TOLD, TOLD_ALL, FifoBell, bell_path, ring, ring_watchers
from cis.worker.lock import acquire
from cis.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 3600.0
LEAST_PAUSE_S = 0.01

LEAVE_AGAIN_S = 0.2

MAX_STAGED = 64  # large DAGs that wait to be stored, one after the other


class Node:
    """A running node: its workers are minded by a thread, its submissions written by another."""

    def __init__(self, home: Home, settings: Settings) -> None:
        home.ensure()
        self.home = home
        self.settings = settings
        self._lock = acquire(node_lock_path(home), what=f"node {settings.node_id}")
        try:
            store = open_store(home.store)  # migrates, or refuses, before anything else starts
            take_up(store, home, settings)
        except BaseException:
            self._lock.release()  # whoever waits for room on the disk comes again
            raise
        for node_id, runs in store.queue.of_other_ids(settings.node_id).items():
            log.warning("runs wait that this home took on under another id", extra={"node_id": node_id, "runs": runs})
        self._first_word = FirstWord(store, clock_s=time.monotonic)
        store.close()
        self.skills = InstalledSkills()
        self.skills.infos()  # find them now: what is installed later is for the next start
        self.logfiles = LogFiles(home.logs)
        self.this_node = make_this_node(settings, skills=self.skills, secrets=TomlSecrets(home.toml, os.environ))
        self.writer = Writer(self.open_store)
        self.readers = Readers(self.open_store)
        self.stager = Readers(self.open_store, threads=1, max_waiting=MAX_STAGED)
        self.hub = EventHub(self.open_store)
        self._bell = FifoBell(bell_path(home.run, "node"))
        self.handle = NodeHandle(
            this_node=self.this_node,
            events=self.hub,
            logs=self.logfiles,
            keys=KeyFile(home.key_file),
            writer=self.writer,
            readers=self.readers,
            stager=self.stager,
            woken=self.wake,
        )
        self.cluster = Cluster(self.handle, room=room_settings(home, settings), first_word=self._first_word)
        self._others = open_bells(home.store, self._heard)
        self._maintenance = Maintenance(
            self.open_store,
            self.logfiles,
            retention_of(settings),
            every_s=settings.prune_every_s,
            clock=now_awake_or_asleep,
        )
        self._stop = threading.Event()
        self._unannounced: str | None = None
        self.ends_because: str | None = None
        self.on_leave: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._mind_workers, name="supervisor")
        self._thread.start()

    def open_store(self) -> Store:
        """Return a store for one more thread. Raises StoreGoneError when the database was removed."""
        return open_store(self.home.store, again=True)

    def announce(self, url: str) -> None:
        """Write down where this node listens, for the commands of this home."""
        schema = adapter_of(self.home.store).schema
        text = json.dumps({"node_id": self.settings.node_id, "url": url, "pid": os.getpid(), "schema": schema})
        self._unannounced = text
        self._announce()

    def _announce(self) -> None:
        """Write it down if that was not done yet; a disk that is full for now keeps no node from running."""
        if self._unannounced is None:
            return
        try:
            replace_file(announcement_path(self.home), self._unannounced.encode())
        except OSError as error:
            log.error("the commands of this home cannot be told where the node listens", extra={"error": str(error)})
        else:
            self._unannounced = None

    def wake(self, worker_ids: Iterable[str]) -> None:
        """Have everybody look at what was stored; the supervisor not, if workers are named and all of them hear it."""
        named = list(worker_ids)
        heard = [ring(self.home.run, worker_id) for worker_id in named]
        if not heard or not all(heard):
            self._bell.ring(TOLD)
        self._tell()
        if self._others is not None:
            self._others.told_work(named)

    def stop(self) -> None:
        """Stop the workers, finish what is being written, and let go of the lock."""
        self._maintenance.stop()
        self._stop.set()
        self._bell.ring()
        self._thread.join()
        if self._others is not None:
            self._others.close()
        self.cluster.stop()
        self.hub.close()
        self.writer.close()
        self.stager.close()
        self.readers.close()
        self._bell.close()
        if self._lock.held:  # else it is another node's by now
            announcement_path(self.home).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _told(self) -> None:
        """Somebody stored something."""
        self._tell()
        if self._others is not None:
            self._others.told()

    def _told_work(self) -> None:
        if self._others is not None:
            self._others.told_work()

    def _heard(self, workers: frozenset[str] | None) -> None:
        """Another node of the store stored something; *workers* as ``cis.store.open_bells`` says."""
        if workers is not None:
            for worker_id in workers:
                ring(self.home.run, worker_id)
            self._bell.ring(TOLD if workers else TOLD_ALL)
        self._tell()

    def _tell(self) -> None:
        """Have everybody on this machine look who waits for something to be stored."""
        self.hub.poke()
        self.cluster.wake()
        ring_watchers(self.home.run)

    def _leave(self, supervisor: Supervisor, why: str) -> None:
        """End by itself: nothing more is accepted, what runs goes on to its end, and then whoever serves is told."""
        log.error("this node accepts nothing more; it ends when what it runs has ended", extra={"reason": why})
        self.ends_because = why
        self._maintenance.stop()
        supervisor.dismiss(unless=self._stop.is_set)
        self._await_stop()

    def _leave_home(self, why: str) -> None:
        """End by itself and at once: the home is another one, or none, so nothing that is done here can be stored."""
        log.error("the home of this node is gone; it ends, and what it runs is ended", extra={"reason": why})
        self.ends_because = why
        self._await_stop()

    def _await_stop(self) -> None:
        while not self._stop.wait(LEAVE_AGAIN_S):
            self.on_leave()  # again and again: it may not be served yet

    def _mind_workers(self) -> None:
        store = self.open_store()
        store.wait_at_most(max(1.0, self.settings.lease_s / 3))  # one that holds the lock may be what is to be ended
        supervisor = make_supervisor(
            self.home,
            self.settings,
            store=store,
            bell=self._bell,
            told=self._told,
            told_work=self._told_work,
            holds=self._first_word.holds,
        )
        while not self._stop.is_set():
            try:
                store.upkeep.check_current()
                self._lock.check()
                supervisor.turn()
                self._announce()
            except StoreNewerError as error:
                self._leave(supervisor, str(error))
            except (StoreGoneError, LockGoneError) as error:
                self._leave_home(str(error))
            except StoreError as error:
                log.error("the supervisor cannot use the store; trying again", extra={"error": str(error)})
                self._stop.wait(1.0)
            except Exception:  # no descriptors, no memory: a node without this thread would accept and never run
                log.exception("the supervisor failed; trying again")
                self._stop.wait(1.0)
        supervisor.close(timeout_s=self.settings.grace_s * 2 + 2)
        store.close()


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
