"""``cis doctor``: what is wrong with this installation, and the mend of each."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from cis.cli.context import Context, from_environment
from cis.cli.output import in_local_time, print_json
from cis.engine.observe.views import peer_view
from cis.engine.ports import attempt_of_handle
from cis.engine.times import rfc3339
from cis.errors import (
    CisError,
    ConfigError,
    NodeIdKeptError,
    NotFoundError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreNewerError,
    StoreReadOnlyError,
)
from cis.executors.attempt_folder import AttemptFolders
from cis.model.ids import counted
from cis.node.clock import now_us
from cis.node.home import announced, node_is_running
from cis.node.residence import place_fault
from cis.node.tables import holds_values
from cis.store import adapter_of
from cis.store.run_port import Attempts
from cis.worker.lock import holder, worker_lock_path

LOW_SPACE_BYTES = 500 * 2**20
LARGE_LOG_BYTES = 256 * 2**20  # the store cuts it to 64 MiB whenever nobody reads
_RESTORE = "'cis db restore FILE' puts a backup in its place"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what is wrong with it and the mend, or nothing."""

    what: str
    fault: str = ""
    mend: str = ""


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the options of this command."""
    group.add_argument("--json", action="store_true", help="one JSON document")
    group.set_defaults(call=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    context = from_environment()
    findings = list(_look(context))
    if options.json:
        views = [{"what": one.what, "ok": not one.fault, "fault": one.fault, "mend": one.mend} for one in findings]
        print_json({"ok": not any(one.fault for one in findings), "findings": views})
    else:
        for one in findings:
            text = f"{one.what}: {one.fault}" if one.fault else one.what
            print(f"{'wrong' if one.fault else 'fine':6} {in_local_time(text)}")
            if one.mend:
                print(f"       mend: {one.mend}")
    return 1 if any(one.fault for one in findings) else 0


def _look(context: Context) -> Iterator[Finding]:
    yield Finding(f"Python {sys.version.split()[0]}")
    yield from _look_at_files(context)
    try:
        yield Finding(f"settings of node {context.settings.node_id}")
    except ConfigError as error:
        yield Finding("settings", str(error), f"edit {context.home.toml}; 'cis config check' says the same")
    except NodeIdKeptError as error:
        yield Finding("settings", str(error), f"leave {error.place} out")
    yield _look_at_store(context)
    yield from _look_at_home(context)
    yield from _look_at_leftovers(context)
    yield from _look_at_shortages(context)
    yield from _look_at_restore(context)
    yield from _look_at_workers(context)
    yield _look_at_space(context)
    yield _look_at_node(context)
    yield from _look_at_peers(context)
    try:
        broken = [info for info in context.skills.infos() if info.error]
        yield from (Finding(f"skill {info.name}", info.error or "", f"reinstall {info.source}") for info in broken)
    except CisError as error:
        yield Finding("skills", str(error))


def _look_at_peers(context: Context) -> Iterator[Finding]:
    try:
        with context.store_as_it_is() as store:
            peers = [peer_view(peer, outbox=0, now_us=now_us()) for peer in store.peers.all()]
    except (StoreError, NotFoundError):
        return  # said already
    for peer in peers:
        mend = "'cis node list' shows more; see docs/howto/two-machines.md"
        yield Finding(f"node {peer['node_id']}", peer["warning"] or "", mend if peer["warning"] else "")


def _look_at_files(context: Context) -> Iterator[Finding]:
    home = context.home
    folders = [(folder, 0o700) for folder in (home.root, home.run, home.logs, home.work)]
    files = [(file, 0o600) for file in (home.db, home.token_file, home.key_file)]
    if holds_values(home.toml):
        files.append((home.toml, 0o600))
    for path, mode in folders + files:
        if not path.exists():
            continue
        status = path.stat()
        if status.st_uid != os.getuid():
            yield Finding(str(path), "belongs to another user", f"chown it, or use another CIS_HOME than {home.root}")
        elif status.st_mode & 0o077:
            yield Finding(str(path), f"is open to others ({status.st_mode & 0o777:o})", f"chmod {mode:o} {path}")
        else:
            yield Finding(str(path))


def _look_at_store(context: Context) -> Finding:
    what = f"database {context.home.store_name}, {adapter_of(context.home.store).engine}"
    older = False
    try:
        with context.store_as_it_is() as store:
            older = not store.upkeep.schema().is_newest
            faults = store.upkeep.faults()
            if not faults:
                with store.transaction():
                    store.upkeep.write_nothing()
    except NotFoundError:
        return Finding(f"{what}: there is none yet")
    except StoreNewerError as error:
        return Finding(
            what, str(error), "use the newest cis-dag that is installed here; this one is older than the database"
        )
    except StoreDamagedError as error:
        return Finding(what, str(error), _RESTORE)
    except StoreFullError as error:
        return Finding(
            what, str(error), f"make room on the disk of {context.home.root}: delete old logs or other files"
        )
    except StoreReadOnlyError as error:
        return Finding(what, str(error), error.mend)
    except StoreError as error:
        return Finding(
            what, str(error), f"look at the disk of {context.home.root} ('dmesg'), and at who holds the file"
        )
    if older:
        what += ", of an earlier version; it is brought up to date when it is next used"
    return Finding(what, faults[0], _RESTORE) if faults else Finding(what)


def _look_at_home(context: Context) -> Iterator[Finding]:
    """Yield whether the home is where it lives, and what it took on under other ids than its own."""
    try:
        with context.store_as_it_is() as store:
            fault, node_id = place_fault(store, context.home), context.settings.node_id
            others = store.queue.of_other_ids(node_id)
    except CisError:
        return  # said already
    if fault is not None:
        yield Finding(f"home {context.home.root}", fault, "'cis init --moved' or 'cis init --copied', as the case is")
    for other, runs in others.items():
        mend = f'cancel them, or write id = "{other}" under [node] in cis.toml until they are done'
        yield Finding(f"node {node_id}", f"{counted(runs, 'run')} of its former id {other!r} wait for ever", mend)


def _look_at_leftovers(context: Context) -> Iterator[Finding]:
    """Yield what stands beside the database and should not, or should not be that large."""
    log = context.home.db.with_name("cis.db-wal")
    with suppress(FileNotFoundError):
        size = log.stat().st_size
        if size > LARGE_LOG_BYTES:
            fault = f"has grown to {size >> 20} MiB, since something has read the database all the time"
            yield Finding(
                str(log), fault, "end commands and programs that have the database open, then restart the node"
            )
    half = context.home.db.with_name("cis.db.restoring")
    if half.exists():
        yield Finding(str(half), "is what an interrupted 'cis db restore' left", f"restore again, or: rm {half}*")


def _look_at_shortages(context: Context) -> Iterator[Finding]:
    """Yield what workers have found too little of on this machine, where runs wait for it."""
    try:
        with context.store_as_it_is() as store:
            short = [worker for worker in store.workers.all() if worker.short_of is not None]
    except (StoreError, NotFoundError):
        return  # said already
    for worker in short:
        what, _, mend = (worker.short_of or "").partition("; ")
        yield Finding(f"{worker.worker_id} waits for the machine", what, mend)


def _look_at_restore(context: Context) -> Iterator[Finding]:
    """Yield from when this home's knowledge is, if it was restored, and what was not found out yet."""
    try:
        with context.store_as_it_is() as store:
            record, left = store.restores.last(), store.restores.doubted()
    except (StoreError, NotFoundError):
        return  # said already
    if record is not None:
        what = f"restored from a backup of {rfc3339(record.known_until_us)}, at {rfc3339(record.restored_at_us)}"
        fault = f"{counted(left, 'run')} may be over, and could not be asked about yet" if left else ""
        yield Finding(
            what,
            fault,
            "'cis dag list' shows them; 'cis dag resume' runs one, 'cis dag cancel' ends it" if left else "",
        )


def _look_at_workers(context: Context) -> Iterator[Finding]:
    """Yield what is left over of workers, where no node sees to it by itself."""
    if node_is_running(context.home):
        return
    try:
        with context.store_as_it_is() as store:
            workers, waiting = store.workers.all(live_only=True), sum(store.runs.unfinished_counts().values())
            lasting = list(_lasting(store.attempts, AttemptFolders(context.home.attempts)))
    except (StoreError, NotFoundError):
        return  # said already
    yield from (Finding(f"{what} goes on without a worker ('cis node start' takes it up)") for what in lasting)
    for worker in workers:
        pid = holder(worker_lock_path(context.home.run, worker.worker_id))
        if pid is None:
            fault = f"process {worker.pid} is gone, and nobody has taken up its work"
            yield Finding(worker.worker_id, fault, "'cis node start' takes it up")
        else:
            yield Finding(f"{worker.worker_id}, process {pid}, works without a node")
    if waiting:
        yield Finding(f"{counted(waiting, 'run')} to be done ('cis node start' does them)")


def _lasting(attempts: Attempts, folders: AttemptFolders) -> Iterator[str]:
    """Yield in words each attempt that goes on without a worker."""
    for handle in folders.handles():
        named = attempt_of_handle(handle)
        row = attempts.get(*named) if named is not None and folders.lives(handle) else None
        if row is not None:
            process = folders.process(handle)
            pid = f", process {process.pid}" if process is not None else ""
            yield f"attempt {row.attempt} of task {row.task_id}, run {row.run_id}{pid}"


def _look_at_space(context: Context) -> Finding:
    free = shutil.disk_usage(context.home.root).free
    what = f"{free / 2**30:.1f} GiB free for {context.home.root}"
    return (
        Finding(what, "little room is left", "delete old logs, or move CIS_HOME")
        if free < LOW_SPACE_BYTES
        else Finding(what)
    )


def _look_at_node(context: Context) -> Finding:
    if not node_is_running(context.home):
        return Finding("no node is running ('cis node start' starts one)")
    told = announced(context.home)
    if told is None:
        return Finding("node", "holds its lock but has not said where it listens", "look at its log, or restart it")
    if told.schema < adapter_of(context.home.store).schema:
        fault = "is of an earlier version, and ends when what it runs has ended once this one has used the database"
        return Finding(f"node {told.node_id}, process {told.pid}", fault, "stop it, and start this version")
    address = urlsplit(told.url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=3).close()
    except OSError as error:
        mend = f"look at its log, or end process {told.pid} and start it again"
        return Finding(f"node at {told.url}", f"does not answer: {error}", mend)
    return Finding(f"node {told.node_id} at {told.url}, process {told.pid}")
