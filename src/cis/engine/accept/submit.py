"""Accepting a DAG: scope, conflicts, and the rows that make it durable.

The one way in, whatever the trigger: HTTP, the shell, another node, a DAG as a task. ``submit`` runs inside the
caller's transaction; once that has committed, the run survives a power cut and exists exactly once. Which node executes
it is ``cis.engine.accept.dispatch``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.accept.admission import OWNER, Asker, state_of_new
from cis.engine.accept.checks import NO_PARAMS, check_secrets, refuse_faults, skill_faults, values_of
from cis.engine.accept.dispatch import choose, post_run
from cis.engine.ports import SkillBook
from cis.engine.this_node import MAX_DEPTH, ThisNode
from cis.engine.transitions import insert_run
from cis.errors import (
    DocumentError,
    Fault,
    IdempotencyConflictError,
    NotFoundError,
    OverloadedError,
    ShareExceededError,
    WorkerConflictError,
)
from cis.model.dag import DagSpec, Json
from cis.model.ids import counted
from cis.model.inference import infer_scope
from cis.model.references import OPENINGS
from cis.model.scope import Scope, ScopeSource
from cis.model.states import RunState, Trigger, TriggerKind
from cis.store.port import Store
from cis.store.queue_port import Queue
from cis.store.records import AS_DEFINED, DefinitionRecord, NewDefinition, QueueItem, RunRecord, TaskRecord
from cis.store.run_port import Definitions, Runs

if TYPE_CHECKING:
    from cis.model.params import Given

RETRY_AFTER_S = 5
OUTBOX = ""  # the place of what waits for other nodes
MAX_QUEUED_DOCUMENT = 128 * 2**10  # characters; a longer one is stored once, as the definition of its run
MAX_DESCRIPTION = 4000  # of a DAG in a list, where a thousand of them are shown at once; its document has all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRun:
    """The task that a run is the work of, when a DAG is a task, and the tree of runs that it belongs to."""

    run_id: str
    task_id: str
    depth: int
    tree: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The node that accepted a run which is executed here, under the id and the time that it gave it."""

    node_id: str
    run_id: str
    created_at_us: int
    depth: int = 0
    tree: str | None = None
    above: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What can be found out about a DAG without the store: of a large one, before anybody has to wait for it.

    ``skill_faults`` are the faults of its tasks' skills, and of each whether it is that this node has no such skill.
    """

    document: str
    sha256: str
    scope: Scope
    source: ScopeSource
    skill_faults: tuple[tuple[Fault, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A DAG that somebody wants run. *staged*: the id under which ``cis.engine.accept.staging`` stored its tasks.

    *errexit* is that of the run (``RunRecord``): False only for what a run of before, or a node of before, asks for.
    *params* are what its parameters are given, as whoever asks for it spells that.
    """

    spec: DagSpec
    idempotency_key: str | None = None
    parent: ParentRun | None = None
    rerun_of: str | None = None
    kept: Mapping[str, TaskRecord] | None = None  # tasks whose results are taken over, by id
    origin: Origin | None = None
    asker: Asker = OWNER
    prepared: Prepared | None = None
    staged: str | None = None
    errexit: bool = True
    trigger: Trigger | None = None  # None: what the rest of the request says
    params: Given = field(default_factory=lambda: NO_PARAMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The run, and whether this request created it (False: its key was known)."""

    run: RunRecord
    created: bool


def submit(store: Store, request: SubmitRequest, *, this_node: ThisNode) -> Submission:
    """Record a run of the DAG and put it on its worker's queue.

    Raises:
        DocumentError: a skill is unknown, its parameters are wrong, the scope may not have a secret, or DAGs are nested
            too deeply.
        AmbiguousScopeError: tasks name different projects or users.
        ScopeForbiddenError: whoever asks may not run DAGs of its scope.
        UnknownNodeError: ``target_node`` is no node that this one knows.
        NodeUnreachableError: there is no way to it.
        WorkerConflictError: the scope's worker still has work on another target node.
        IdempotencyConflictError: the key belongs to another document, or to other parameters.
        OverloadedError: the queue, or the outbox, is full.
        ShareExceededError: the share that its scope, or whoever asks, has of it is full.
    """
    spec = request.spec
    prepared = request.prepared or prepare(spec, skills=this_node.skills)
    scope = prepared.scope
    request.asker.check(scope)
    params = values_of(spec, request.params)
    if request.idempotency_key is not None:
        first = store.runs.by_key(request.idempotency_key)
        if first is not None:
            _check_same(store, first, prepared.sha256, params=params, key=request.idempotency_key)
            return Submission(run=first, created=False)

    origin = request.origin
    nested = request.parent is not None or origin is not None
    _check_worker(store.runs, spec, scope)
    destination = choose(store.peers, spec, this_node=this_node, nested=nested)
    refuse_faults(prepared.skill_faults, all_known=destination.here)
    if destination.here:
        check_secrets(spec, scope, this_node, params=params)
    depth = (origin.depth if origin else 0) if request.parent is None else request.parent.depth + 1
    if depth > MAX_DEPTH:
        raise DocumentError([Fault(place="tasks", message=f"DAGs are nested more than {MAX_DEPTH} deep")])
    check_place(store, request, scope, this_node=this_node, here=destination.here)
    tree = _tree(request)
    if tree is not None and store.runs.grow_tree(tree) > this_node.max_descendants:
        fault = f"there are {this_node.max_descendants:,} runs below one already ([queue] max_descendants); start fewer from one"
        raise DocumentError([Fault(place="tasks", message=fault)])

    now_us = this_node.clock_us()
    definition_id = record_definition(store.definitions, spec, prepared=prepared, now_us=now_us)
    run = RunRecord(
        run_id=origin.run_id if origin else request.staged or this_node.new_id(),
        dag_id=spec.dag_id,
        definition_id=definition_id,
        status=RunState.PENDING,
        scope=scope,
        scope_source=prepared.source,
        worker_id=scope.worker_id,
        node_id=origin.node_id if origin else this_node.node_id,
        owner_node=destination.peer.node_id if destination.peer else this_node.node_id,
        target_node=spec.target_node,
        priority=spec.priority,
        delivery=destination.delivery,
        task_count=first_count(spec, request.kept),
        created_at_us=origin.created_at_us if origin else now_us,
        idempotency_key=request.idempotency_key,
        rerun_of=request.rerun_of,
        parent_run_id=request.parent.run_id if request.parent else None,
        parent_task_id=request.parent.task_id if request.parent else None,
        depth=depth,
        scopes=request.asker.scopes,
        tree=tree,
        above=origin.above if origin else (),
        errexit=request.errexit,
        trigger=_trigger(request),
        handled=bool(spec.handlers),
    )
    if request.staged is None:
        insert_run(store, run, first_tasks(run.run_id, spec, request.kept or {}), at_us=now_us, params=params)
    elif store.staged.complete(run.run_id, tasks=run.task_count):
        insert_run(store, run, (), at_us=now_us, params=params)
    else:
        raise OverloadedError("it took so long that what was stored for it is gone", retry_after_s=1)
    if destination.here:
        asker = request.asker.name if request.asker.shares else None
        enqueue(store.queue, run, document=prepared.document, this_node=this_node, now_us=now_us, asker=asker)
    else:
        post_run(store, run, destination, spec=spec, this_node=this_node)
    return Submission(run=run, created=True)


def enqueue(
    queue: Queue, run: RunRecord, *, document: str, this_node: ThisNode, now_us: int, asker: str | None = None
) -> None:
    """Put a run into the queue of its worker on this node."""
    below = run.tree is not None
    queue.add(
        this_node.node_id,
        QueueItem(
            run_id=run.run_id,
            worker_id=run.worker_id,
            dag_json=document if len(document) <= MAX_QUEUED_DOCUMENT else AS_DEFINED,
            status=state_of_new(queue, run.scope, this_node=this_node, below=below),
            priority=run.priority,
            created_at_us=now_us,
            below=below,
            asker=asker,
        ),
    )


def prepare(spec: DagSpec, *, skills: SkillBook) -> Prepared:
    """Find out about a DAG what needs no store. Raises AmbiguousScopeError: tasks name different projects or users."""
    document = canonical_json(spec)
    scope, source = infer_scope(spec)
    return Prepared(
        document=document,
        sha256=hashlib.sha256(document.encode()).hexdigest(),
        scope=scope,
        source=source,
        skill_faults=tuple(skill_faults(spec, skills)),
    )


def _trigger(request: SubmitRequest) -> Trigger | None:
    """Return what begins a run; None: another node began it, and did not say."""
    if request.trigger is not None:
        return request.trigger
    if request.parent is not None:
        return Trigger(TriggerKind.DAG, request.parent.run_id)
    by = None if request.asker is OWNER else request.asker.name
    if request.rerun_of is not None:
        return Trigger(TriggerKind.RERUN, request.rerun_of, by)
    return Trigger(TriggerKind.MANUAL, by=by) if request.origin is None else None


def record_definition(definitions: Definitions, spec: DagSpec, *, prepared: Prepared, now_us: int) -> int:
    """Store the document, unless this version is there already; return its id."""
    definition = NewDefinition(
        dag_id=spec.dag_id,
        sha256=prepared.sha256,
        scope=prepared.scope,
        target_node=spec.target_node,
        priority=spec.priority,
        description=spec.description[:MAX_DESCRIPTION],
        task_count=len(spec.tasks),
        created_at_us=now_us,
        document=prepared.document,
    )
    return definitions.put(definition)


def save(
    definitions: Definitions, spec: DagSpec, *, this_node: ThisNode, prepared: Prepared | None = None
) -> DefinitionRecord:
    """Keep a DAG under its id, to be run by name later, in place of the one kept before.

    Raises:
        DocumentError, AmbiguousScopeError: as ``submit`` does.
    """
    prepared = prepared or prepare(spec, skills=this_node.skills)
    refuse_faults(prepared.skill_faults)
    if spec.target_node == this_node.node_id or (spec.target_node is None and not this_node.offers):
        check_secrets(spec, prepared.scope, this_node)
    now_us = this_node.clock_us()
    definition_id = record_definition(definitions, spec, prepared=prepared, now_us=now_us)
    definitions.save(definition_id, at_us=now_us)
    saved = definitions.get(definition_id)
    if saved is None:
        raise NotFoundError("DAG", spec.dag_id)
    return saved


def canonical_json(spec: DagSpec) -> str:
    """Return the document as it is stored and hashed: sorted keys, no spaces."""
    return json.dumps(spec.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _check_same(store: Store, run: RunRecord, digest: str, *, params: Mapping[str, Json], key: str) -> None:
    """Raise IdempotencyConflictError unless a run is of that document and has those parameters."""
    definition = store.definitions.get(run.definition_id)
    if definition is None or definition.sha256 != digest:
        raise IdempotencyConflictError(key, run.run_id)
    if params and store.runs.params(run.run_id) != params:
        raise IdempotencyConflictError(key, run.run_id, what="parameters are others")


def check_place(store: Store, request: SubmitRequest, scope: Scope, *, this_node: ThisNode, here: bool) -> None:
    """Raise OverloadedError, or ShareExceededError, unless one run more may wait: for its worker here, or for its node.

    Nobody may fill the queue alone: a scope has a share of it, and so have a token, a node and a person. Runs that are
    tasks of others are counted apart from those that were handed in. So what waits at the door never keeps out what a
    run that was let in depends on, and each child finds a place sooner or later.
    """
    below, place, asker = _tree(request) is not None, this_node.node_id if here else OUTBOX, request.asker
    most, half = this_node.max_queued, max(1, this_node.max_queued // 2)
    full = store.queue.waiting_count(place, below=below) >= most if here else store.outbox.count(at_most=most) >= most
    if full:
        what = "runs wait" if here else "messages to other nodes wait"
        raise OverloadedError(f"{most} {what} already", retry_after_s=RETRY_AFTER_S)
    share = this_node.rules_of(scope).max_queued or half
    if store.queue.waiting_count(place, below=below and here, holder=scope.worker_id) >= share:
        what = f"scope {scope} has {counted(share, 'run')} waiting already, its share of the queue"
        raise ShareExceededError(
            f'{what} (max_queued in [scope."{scope}"] gives it another)', retry_after_s=RETRY_AFTER_S
        )
    if asker.shares and here and store.queue.waiting_count(place, below=below, holder=asker.name) >= half:
        what = f"{asker.name} has {counted(half, 'run')} waiting already, which is half of the queue"
        raise ShareExceededError(what, retry_after_s=RETRY_AFTER_S)


def _tree(request: SubmitRequest) -> str | None:
    if request.parent is not None:
        return request.parent.tree
    return request.origin.tree if request.origin is not None else None


def _check_worker(runs: Runs, spec: DagSpec, scope: Scope) -> None:
    """Raise WorkerConflictError when work that belongs in one place is asked for in a second one."""
    wanted = spec.target_node
    if wanted is None or spec.spread or not scope.in_one_place:
        return
    other = runs.unfinished_elsewhere(scope.worker_id, wanted)
    if other is not None and other.target_node is not None:
        raise WorkerConflictError(
            str(scope),
            dag_id=spec.dag_id,
            wanted=wanted,
            busy=other.target_node,
            run_id=other.run_id,
            busy_dag_id=other.dag_id,
        )


def first_count(spec: DagSpec, kept: Mapping[str, TaskRecord] | None) -> int:
    """Return how many tasks a run has as it begins."""
    return len(spec.tasks) + sum(task.is_added for task in (kept or {}).values())


def first_tasks(
    run_id: str, spec: DagSpec, kept: Mapping[str, TaskRecord], *, first: int = 0, limit: int | None = None
) -> list[TaskRecord]:
    """Return the tasks of a run as it begins, from number *first* on; those of *kept* are as they were.

    Those of *kept* that its run got while it went on come last.
    """
    tasks = []
    ids = [task.id for task in spec.tasks] + [task_id for task_id, task in kept.items() if task.is_added]
    for number in range(first, len(ids) if limit is None else min(first + limit, len(ids))):
        old = kept.get(ids[number])
        if old is None:
            tasks.append(TaskRecord(run_id=run_id, task_no=number, task_id=ids[number]))
        else:
            child = None if old.status.final else old.child_run_id  # whose completed tasks the new one takes over
            tasks.append(old._replace(run_id=run_id, task_no=number, child_run_id=child))
    return tasks


def anchored(spec: DagSpec, *, base: Path) -> DagSpec:
    """Return *spec* with an absolute ``cwd`` in every task: its own against *base*, or *base*.

    A ``cwd`` that starts with ``~`` or with a reference to an output is left for the worker to fill in.
    """

    def anchor(cwd: str | None) -> str:
        if cwd is None:
            return str(base)
        return cwd if cwd.startswith(("~", *OPENINGS)) else os.path.normpath(base / cwd)

    return replace(
        spec,
        tasks=tuple(replace(task, cwd=anchor(task.cwd)) for task in spec.tasks),
        handlers={name: replace(task, cwd=anchor(task.cwd)) for name, task in spec.handlers.items()},
    )
