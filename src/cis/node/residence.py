"""Where a home lives, and whose it is: kept in its database with the first command that acts.

    kept nothing yet            ──> this node's id, this machine, this path are kept
    same machine, same path     ──> goes on
    another machine or path     ──> nothing acts (``HomeElsewhereError``), until one of these says what happened:
         cis init --moved       ──> the same node: the new place is kept
         cis init --copied      ──> another node: new id, new key, and nothing of the old queue

A copy has the runs, the key and the queue of the original, so two that act would do everything twice, and one would
take the other's processes for its own. What is only read harms nobody. The record lies in the database, so it comes
along with a copy of the folder and with a backup that is restored elsewhere. A container is told from another by its
path alone (``cis.executors.platform``): one that is made anew over the same volume goes on.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path

from cis.errors import AlreadyRunningError, ConflictError, HomeElsewhereError
from cis.executors.attempt_folder import DROP, AttemptFolders
from cis.executors.orphans import kill_orphans
from cis.executors.platform import machine_id
from cis.federation.restored import disown
from cis.node.clock import now_us
from cis.node.home import Home, announcement_path, node_lock_path
from cis.node.identity import KeyFile, set_text
from cis.node.settings import Settings, default_node_id
from cis.store.port import Store
from cis.store.upkeep_port import HomeRecord
from cis.worker.lock import holder
from cis.worker.rescuer import end_orphans


def take_up(store: Store, home: Home, settings: Settings) -> None:
    """Make sure that this home may act here as this node; keep what it is if it has kept nothing yet.

    Raises:
        HomeElsewhereError: it woke up on another machine or path.
    """
    kept, here = store.home.get(), _here(home, settings.node_id)
    if kept == here:
        return
    if kept is not None:
        check_place(kept, here)
    with store.transaction():
        store.home.put(here)


def check_place(kept: HomeRecord, here: HomeRecord) -> None:
    """Raise HomeElsewhereError unless both are the same place; a machine that is not known may be any."""
    if _same_machine(kept, here) and kept.path == here.path:
        return
    was = f"at {kept.path}" + ("" if _same_machine(kept, here) else " on another machine")
    raise HomeElsewhereError(kept.node_id, was=was, now=f"at {here.path} now")


def place_fault(store: Store, home: Home) -> str | None:
    """Return why this home does not act here, or None when it does."""
    kept = store.home.get()
    try:
        if kept is not None:
            check_place(kept, _here(home, kept.node_id))
    except HomeElsewhereError as error:
        return str(error)
    return None


def move(store: Store, home: Home) -> HomeRecord | None:
    """Keep the new place of a home that was moved; return what was kept before, None when it is where it was.

    What its tasks left running under the old path is ended first: it would not be found later, and writes to where
    nobody looks. A lasting attempt is among it; one that has ended by itself is found as it ended.

    Raises:
        ConflictError: a process still uses it, or the home is still at its old place too, so this one is a copy.
        OrphanError: something that a task started cannot be ended.
    """
    kept = store.home.get()
    here = _here(home, kept.node_id if kept else "")
    if kept is None or kept == here:
        return None
    _refuse_in_use(home)
    old = Path(kept.path)
    if _same_machine(kept, here) and (old / home.db.name).exists() and not _same_folder(old, home.root):
        raise ConflictError(
            f"the home at {old} is still there, so this one is a copy: 'cis init --copied'; or remove that one first"
        )
    folders = AttemptFolders(home.attempts)
    for handle in folders.handles():
        folders.order(handle, DROP)
    for worker_id in {worker.worker_id for worker in store.workers.all()}:
        end_orphans(store, worker_id, kill=partial(kill_orphans, home=kept.path))
    with store.transaction():
        store.home.put(here)
    return kept


def become_copy(store: Store, home: Home, *, node_id: str | None) -> HomeRecord | None:
    """Make a copied home that of a new node; return what was kept before, None when it is where it was.

    What runs is the original's, lasting attempts too: nothing of it is ended, and nothing here knows of it any more.
    Whoever breaks off in between may begin again: the place is kept last.

    Raises:
        ConflictError: a process still uses it, or *node_id* is the original's.
    """
    kept = store.home.get()
    here = _here(home, node_id or f"{default_node_id()[:100]}-{secrets.token_hex(3)}")
    if kept is None or (_same_machine(kept, here) and kept.path == here.path):
        return None
    if node_id == kept.node_id:
        raise ConflictError(f"{node_id!r} is the original's id; a copy needs another, or none, and gets one")
    _refuse_in_use(home)
    if home.toml.exists():
        set_text(home.toml, section="node", key="id", value=here.node_id)
    home.key_file.unlink(missing_ok=True)
    KeyFile(home.key_file).signer()
    announcement_path(home).unlink(missing_ok=True)
    folders = AttemptFolders(home.attempts)
    for handle in folders.handles():  # what goes on by itself goes on at the original's place
        folders.forget(handle)
    disown(store, reason=f"this home is a copy of node {kept.node_id!r}, which goes on with this run", now_us=now_us())
    with store.transaction():
        store.home.put(here)
    return kept


def _here(home: Home, node_id: str) -> HomeRecord:
    return HomeRecord(node_id=node_id, machine=machine_id(), path=os.path.realpath(home.root))


def _same_machine(one: HomeRecord, other: HomeRecord) -> bool:
    return one.machine == other.machine or not (one.machine and other.machine)


def _same_folder(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False


def _refuse_in_use(home: Home) -> None:
    for lock in (node_lock_path(home), *home.run.glob("cis-worker-*.lock")):
        pid = holder(lock)
        if pid is not None:
            raise AlreadyRunningError(f"something in {home.root}", holder=f"process {pid} ({lock.name}); end it first")
