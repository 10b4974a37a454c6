"""What is said of a DAG beside its answer: nothing of it is wrong, but it may not do what its author meant."""

from __future__ import annotations

from collections.abc import Sequence

from cis.model.dag import COMMAND_SKILL, DagSpec
from cis.model.pipelines import blind_to_pipes
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord

_SHOWN = 4
_BLIND = (
    "{}: of a pipe (|) only the last command counts, so the failure of another goes unseen; with"
    ' "shell: bash -euo pipefail" it fails the task'
)
_OLD_SHELL = (
    "node {} runs an earlier program, which knows no /bin/sh -e: {} will go on after a line that fails; upgrade that"
    ' node, or begin the command with "set -e"'
)


def document_warnings(spec: DagSpec) -> list[str]:
    """Return what is to be said of a document, wherever it runs."""
    blind = list(blind_to_pipes(spec))
    return [_BLIND.format(_named(blind))] if blind else []


def run_warnings(store: Store, run: RunRecord) -> list[str]:
    """Return what is to be said of a run that was handed in; nothing is read for one that this node executes."""
    remote = store.remotes.get(run.run_id) if run.owner_node != run.node_id else None
    if remote is None or not remote.ignores_errexit:
        return []
    spec = stored_spec(store.definitions, run.definition_id)
    texts = [task.id for task in spec.tasks if task.skill == COMMAND_SKILL or isinstance(task.command, str)]
    return [_OLD_SHELL.format(remote.peer_id, _named(texts))] if texts else []


def _named(ids: Sequence[str]) -> str:
    names = ", ".join(repr(one) for one in ids[:_SHOWN])
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return f"{'task' if len(ids) == 1 else 'tasks'} {names}{more}"
