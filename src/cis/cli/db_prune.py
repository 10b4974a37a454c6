"""``cis db prune``: forgetting what is old, for a home without a node, or at once."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace

from cis.cli.context import from_environment
from cis.cli.output import print_json
from cis.engine.logfiles import LogFiles
from cis.engine.pruner import Cutoff, Pruner, Retention, Tally, expired_families, expired_folders
from cis.errors import UsageError
from cis.model.durations import parse_duration
from cis.model.plurals import counted
from cis.node.clock import now_us
from cis.node.maintenance import retention_of
from cis.store.port import Store


def prune(options: argparse.Namespace) -> None:
    """Prune as the settings say, or say what would go."""
    context = from_environment()
    keep = retention_of(context.settings)
    if options.older_than is not None:
        keep = replace(keep, max_age_s=_age_s(options.older_than))
    logfiles, cutoff = LogFiles(context.home.logs), Cutoff(now_us=now_us())
    with context.store() if options.dry_run else context.acting_store() as store:
        if options.dry_run:
            tally = _survey(store, logfiles, keep, cutoff)
        else:
            pruner = Pruner(store, logfiles, keep, elapsed_s=time.monotonic)
            for steps in (pruner.runs(cutoff), pruner.leftovers(cutoff)):
                for _ in steps:
                    pass
            tally = pruner.tally
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


def _survey(store: Store, logfiles: LogFiles, keep: Retention, cutoff: Cutoff) -> Tally:
    """Count what would go; documents that only the runs which go are of are counted once they have gone."""
    tally = Tally(documents=len(store.unused_definitions(limit=1_000_000)))
    folders: set[str] = set()
    for family in expired_families(store, keep, cutoff):
        tally.runs += len(family)
        folders.update(run_id for run_id in family if logfiles.folder(run_id).is_dir())
    folders.update(name for name in expired_folders(store, logfiles, keep, cutoff) if name is not None)
    tally.folders = len(folders)
    return tally
