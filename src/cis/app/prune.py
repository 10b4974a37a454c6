"""Forgetting what is old at once, and how much that would be; a node does it by itself, a little at a time."""

from __future__ import annotations

from collections.abc import Callable

from cis.engine.logfiles import LogFiles
from cis.engine.upkeep.pruner import Cutoff, Pruner, Retention, Tally, expired_families, expired_folders
from cis.store.port import Store

__all__ = ["Cutoff", "Retention", "Tally", "prune", "survey"]


def prune(
    store: Store, logfiles: LogFiles, keep: Retention, *, cutoff: Cutoff, elapsed_s: Callable[[], float]
) -> Tally:
    """Delete what *keep* does not keep, in many short transactions, and return how much has gone."""
    pruner = Pruner(store, logfiles, keep, elapsed_s=elapsed_s)
    for steps in (pruner.runs(cutoff), pruner.leftovers(cutoff)):
        for _ in steps:
            pass
    return pruner.tally


def survey(store: Store, logfiles: LogFiles, keep: Retention, *, cutoff: Cutoff) -> Tally:
    """Count what would go; documents that only the runs which go are of are counted once they have gone."""
    tally = Tally(documents=len(store.definitions.unused(limit=1_000_000)))
    folders: set[str] = set()
    for family in expired_families(store.pruning, keep, cutoff):
        tally.runs += len(family)
        folders.update(run_id for run_id in family if logfiles.folder(run_id).is_dir())
    folders.update(name for name in expired_folders(store.pruning, logfiles, keep, cutoff) if name is not None)
    tally.folders = len(folders)
    return tally
