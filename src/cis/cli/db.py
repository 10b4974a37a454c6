"""``cis db check``, ``backup``, ``restore``, ``migrate`` and ``prune``: what can be done about the database.

All of it works without a node; ``restore`` refuses while a node or a worker runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from cis.app.actor import append_audit
from cis.app.prune import Cutoff, survey
from cis.app.prune import prune as prune_now
from cis.cli.context import Context, check_utf8, from_environment, say, this_user
from cis.cli.output import local_time, print_json
from cis.engine.logfiles import LogFiles
from cis.engine.times import rfc3339
from cis.errors import ConflictError, NotFoundError, StoreDamagedError, UsageError
from cis.federation.restored import Restored, mark_restored
from cis.model.durations import parse_duration
from cis.model.ids import counted
from cis.node.clock import now_us
from cis.node.home import node_is_running
from cis.store import restoring
from cis.worker.lock import holder


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the commands of this group."""
    commands = group.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about, call in (
        ("check", "look for damage; status 1 if there is some", _check),
        ("backup", "copy the database, also while it is in use", _backup),
        ("restore", "put a backup in place of the database; the old one is kept beside it", _restore),
        ("migrate", "bring the database to the newest schema (every command does so)", _migrate),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--json", action="store_true", help="one JSON document")
        if name in ("backup", "restore"):
            command.add_argument("file", metavar="FILE")
        command.set_defaults(call=call)
    pruning = commands.add_parser(
        "prune", help="forget old runs and logs, as [retention] says; a node does so by itself"
    )
    pruning.add_argument("--dry-run", action="store_true", help="only say how much would go")
    pruning.add_argument("--older-than", metavar="AGE", help="runs that ended longer ago than this, as 30d")
    pruning.add_argument("--json", action="store_true", help="one JSON document")
    pruning.set_defaults(call=prune)


def _check(options: argparse.Namespace) -> int:
    context = from_environment()
    try:
        with context.store_as_it_is() as store:
            faults = store.upkeep.faults()
    except NotFoundError:
        faults = []  # there is none yet
    except StoreDamagedError as error:  # too much for it even to be opened
        faults = [str(error)]
    if options.json:
        print_json({"path": context.home.store_name, "ok": not faults, "faults": faults})
    else:
        print("\n".join(faults) or f"{context.home.store_name}: fine")
    return 1 if faults else 0


def _backup(options: argparse.Namespace) -> None:
    context = from_environment()
    target = check_utf8(Path(options.file))
    if target.exists():
        raise ConflictError(f"{target} exists already; choose another name")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target.absolute().parent} is not a folder")
    with context.store_as_it_is() as store:
        store.upkeep.back_up(target)
    _answer({"path": str(target), "bytes": target.stat().st_size}, f"{target}: written", options)


def _restore(options: argparse.Namespace) -> None:
    context = from_environment()
    source = check_utf8(Path(options.file))
    if not source.is_file():
        raise NotFoundError("backup", options.file)
    _refuse_while_in_use(context)
    with restoring(context.home.store, source) as copied, copied.store.transaction():
        node_id, lease_s = context.settings.node_id, context.settings.room_lease_s
        found = mark_restored(copied.store, node_id=node_id, lease_s=lease_s, now_us=now_us())
        append_audit(
            copied.store.audit, this_user(), action="db.restore", subject=str(source.absolute()), now_us=now_us()
        )
    kept = copied.kept
    said = f"{kept} is the old one" if kept else "there was none before"
    view = {
        "path": context.home.store_name,
        "kept": str(kept) if kept else None,
        "known_until": rfc3339(found.known_until_us),
        "held_runs": found.held,
        "asked_runs": found.asked,
        "let_go_runs": found.let_go,
        "offered_runs": found.offers,
    }
    _answer(view, f"{context.home.store_name}: restored; {said}", options)
    for line in _open_questions(found):
        say(line)


def _open_questions(found: Restored) -> Iterator[str]:
    """Yield what this home does not know any more, and what becomes of that."""
    yield f"it knows nothing of what happened after {local_time(rfc3339(found.known_until_us))}"
    if found.held:
        yield f"{counted(found.held, 'run')} of this node may be over: each waits for 'cis dag resume' or 'cis dag cancel'"
    if found.asked:
        yield f"{counted(found.asked, 'run')} of other nodes may be over: the node starts by asking those"
    if found.let_go:
        yield f"{counted(found.let_go, 'run')} that the room granted to this node are let go"
    if found.offers:
        yield f"{counted(found.offers, 'run')} that this node offered wait for a lease: the room says who has them"
    yield "tokens, trusted nodes and saved DAGs are those of then: see 'cis token list', 'cis node list', 'cis dag definitions'"


def _migrate(options: argparse.Namespace) -> None:
    context = from_environment()
    with context.store():
        _answer(
            {"path": context.home.store_name, "migrated": True}, f"{context.home.store_name}: newest schema", options
        )


def _refuse_while_in_use(context: Context) -> None:
    if node_is_running(context.home):
        raise ConflictError("the node is running; stop it first")
    for lock in context.home.run.glob("cis-worker-*.lock"):
        pid = holder(lock)
        if pid is not None:
            raise ConflictError(f"a worker is running (process {pid}); stop it first")


def _answer(view: Mapping[str, object], text: str, options: argparse.Namespace) -> None:
    if options.json:
        print_json(view)
    else:
        print(text)


def prune(options: argparse.Namespace) -> None:
    """Prune as the settings say, or say what would go."""
    from cis.node.node import retention_of  # noqa: PLC0415 - half of the time of the other commands

    context = from_environment()
    keep = retention_of(context.settings)
    if options.older_than is not None:
        keep = replace(keep, max_age_s=_age_s(options.older_than))
    logfiles, cutoff = LogFiles(context.home.logs), Cutoff(now_us=now_us())
    with context.store() if options.dry_run else context.writable_store() as store:
        if options.dry_run:
            tally = survey(store, logfiles, keep, cutoff=cutoff)
        else:
            tally = prune_now(store, logfiles, keep, cutoff=cutoff, elapsed_s=time.monotonic)
    if options.json:
        print_json({"dry_run": options.dry_run, **asdict(tally)})
    else:
        said = "would go" if options.dry_run else "gone"
        things = (
            counted(tally.runs, "run"),
            counted(tally.folders, "log folder"),
            counted(tally.documents, "document"),
        )
        print(f"{said}: {', '.join(things)}")


def _age_s(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from error
