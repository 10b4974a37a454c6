"""Running once more what ran before: which tasks are taken over, which run again, and why.

Without more, all of it runs again. Else a task runs again that did not complete, that was asked for, that a mended
document defines in another way, or that uses a parameter which has another value now; and so does all that follows.
The rest is taken over as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from cis.engine.accept.admission import OWNER, Asker
from cis.engine.accept.checks import NO_PARAMS
from cis.engine.accept.submit import SubmitRequest
from cis.engine.lookup import look_up_run
from cis.errors import IllegalStateError, NotFoundError, UsageError
from cis.model.dag import DAG_SKILL, DagSpec, TaskSpec
from cis.model.graph import Graph
from cis.model.ids import did_you_mean
from cis.model.references import references
from cis.model.scope_rules import in_common
from cis.model.states import TaskState
from cis.store.port import Store, stored_spec
from cis.store.records import RunRecord, TaskRecord

if TYPE_CHECKING:
    from cis.model.params import Given

Reasons = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What of a run is to run again: what failed (*from_failed*), one *task*, what a *mended* document changed; else all."""

    from_failed: bool = False
    task: str | None = None
    mended: DagSpec | None = None

    @property
    def all(self) -> bool:
        """Whether nothing is taken over."""
        return not self.from_failed and self.task is None and self.mended is None


ALL = Repeat()


class Rerun(NamedTuple):
    """What to submit, which tasks it takes over, and why each other one runs again (empty where all of them do)."""

    request: SubmitRequest
    kept: tuple[str, ...]
    again: Mapping[str, str]


def rerun_of(store: Store, run_id: str, *, how: Repeat = ALL, asker: Asker = OWNER, params: Given = NO_PARAMS) -> Rerun:
    """Return what to submit to run a DAG again. It has the parameters of the old run, but for those in *params*.

    A run that is over does not change any more, so this can be asked outside of the transaction that submits. The new
    run runs in the scopes that the old one and *asker* may both use: whoever repeats a run lends it no rights.

    Raises:
        NotFoundError: no such run, or none that *asker* may see; or it has no such task.
        IllegalStateError: the run is not over yet, nothing of it is left to do, or what the task needs did not complete.
        UsageError: the mended document is that of another DAG.
    """
    old = look_up_run(store.runs, run_id, scopes=asker.scopes)
    before = stored_spec(store.definitions, old.definition_id)
    spec = how.mended or before
    if spec.dag_id != old.dag_id:
        raise UsageError(
            f"the document is of {spec.dag_id!r}, but the run is of {old.dag_id!r}; hand in a mended document of the same DAG"
        )
    values = store.runs.params(run_id) if before.params else NO_PARAMS
    kept: dict[str, TaskRecord] = {}
    again: Reasons = {}
    if not how.all:
        if not old.status.final:
            raise _not_yet(old, ": parts of it can be repeated once it is over")
        tasks = {task.task_id: task for task in store.tasks.of_run(run_id)}
        again = _again(before, spec, tasks, how, changed=params.keys())
        if not again:
            raise _not_yet(old, ", and nothing of it is left to do; leave --from-failed out to repeat all of it")
        _check_upstream(old, spec, tasks, how, again)
        kept = {task_id: _taken_over(task) for task_id, task in tasks.items() if task_id not in again}
        kept |= {one.task_id: one for one in _children_to_mend(spec, tasks, how, again)}
        kept = {name: task for name, task in kept.items() if not task.is_added} | _instances(spec, tasks, how, again)
    request = SubmitRequest(
        spec=spec,
        rerun_of=run_id,
        kept={name: kept[name] for name in (*(task.id for task in spec.tasks), *_added(kept)) if name in kept},
        asker=replace(asker, scopes=in_common(old.scopes, asker.scopes)),
        errexit=old.errexit,
        params={**{name: value for name, value in values.items() if name in spec.params}, **params},
    )
    return Rerun(request, tuple(name for name, task in (request.kept or {}).items() if task.status.final), again)


def taken_over(store: Store, run_id: str, spec: DagSpec, params: Mapping[str, object]) -> Mapping[str, TaskRecord]:
    """Return what a run of a DAG as a task takes over of an earlier one that failed: nothing if the DAG is another now."""
    old = store.runs.get(run_id)
    if old is None or not old.status.final or stored_spec(store.definitions, old.definition_id) != spec:
        return {}
    if spec.params and any(store.runs.params(run_id).get(name) != value for name, value in params.items()):
        return {}
    tasks = {task.task_id: task for task in store.tasks.of_run(run_id)}
    how = Repeat(from_failed=True)
    again = _again(spec, spec, tasks, how, changed=())
    kept = {task_id: _taken_over(task) for task_id, task in tasks.items() if task_id not in again}
    kept |= {one.task_id: one for one in _children_to_mend(spec, tasks, how, again)}
    return {name: task for name, task in kept.items() if not task.is_added} | _instances(spec, tasks, how, again)


def _again(
    before: DagSpec, spec: DagSpec, tasks: Mapping[str, TaskRecord], how: Repeat, *, changed: Collection[str]
) -> Reasons:
    """Return why tasks run again, by id, in the order of the document."""
    asked = _whole_of(how.task)
    if how.task is not None and (asked not in {task.id for task in spec.tasks} or how.task not in tasks):
        hint = did_you_mean(how.task, [task.id for task in spec.tasks])
        raise NotFoundError("task", how.task, hint=f"in {spec.dag_id}{hint}")
    defined = {task.id: task for task in before.tasks}
    shared = _shared_change(before, spec, changed)
    found: list[str | None] = []
    for task in spec.tasks:
        old, record = defined.get(task.id), tasks.get(task.id)
        why = None
        if old is None or record is None:
            why = "it is new"
        elif task.id == asked:
            why = _ASKED_FOR.format("it" if how.task == asked else how.task)
        elif how.task is None and not _keeps(record):
            why = _ENDED.format("was " if record.status in _PASSIVE else "", record.status)
        elif task != old:
            why = f"its {_difference(old, task)} changed"
        found.append(why or shared or _uses(task, changed))
    graph = Graph.of(spec.tasks)
    waiting = [number for number, why in enumerate(found) if why is not None]
    while waiting:
        number = waiting.pop()
        for child in graph.children[number]:
            if found[child] is None:
                found[child] = f"{spec.tasks[number].id} before it runs again"
                waiting.append(child)
    return {task.id: why for task, why in zip(spec.tasks, found, strict=True) if why is not None}


_PASSIVE = (TaskState.CANCELLED, TaskState.SKIPPED)
_ASKED_FOR = "{} was asked for"
_ENDED = "it {}{}"


def _whole_of(task_id: str | None) -> str | None:
    """Return the task that an instance is of, by its id; of any other, that one."""
    return None if task_id is None else task_id.partition("[")[0]


def _added(kept: Mapping[str, TaskRecord]) -> Iterator[str]:
    return (name for name, task in kept.items() if task.is_added)


def _instances(
    spec: DagSpec, tasks: Mapping[str, TaskRecord], how: Repeat, again: Mapping[str, str]
) -> dict[str, TaskRecord]:
    """Return the instances that are taken over: of a task that is, all; of one that runs again by itself, some.

    Those are the ones that came to an end that counts, or all but the one that was asked for.
    """
    numbers = {task.id: number for number, task in enumerate(spec.tasks) if task.is_many}
    found: dict[str, TaskRecord] = {}
    for name, task in tasks.items() if numbers else ():
        whole = _whole_of(name) or ""
        if task.part_of is None or whole not in numbers or name == how.task:
            continue
        why = again.get(whole)
        if why is None or (why == _ASKED_FOR.format(how.task) and task.status.final):
            pass
        elif not (how.task is None and _is_own(why, tasks[whole]) and _keeps(task)):
            continue
        found[name] = _taken_over(task)._replace(part_of=numbers[whole])
    return found


def _is_own(why: str, whole: TaskRecord) -> bool:
    """Whether a task runs again for how it ended alone: its instances are what they were."""
    return why == _ENDED.format("was " if whole.status in _PASSIVE else "", whole.status)


def _keeps(task: TaskRecord) -> bool:
    """Whether a task came to an end that counts: it completed, was allowed to fail, or was skipped for no failure."""
    return task.status.final and not task.counts_as_failed


def _shared_change(before: DagSpec, spec: DagSpec, changed: Collection[str]) -> str | None:
    """Return what changed of what every task sees; None: nothing."""
    if spec.env != before.env:
        return "the env of the DAG changed"
    for one in references(dict(spec.env)):
        if one.param in changed:
            return f"the env of the DAG uses the parameter {one.param}"
    return None


def _uses(task: TaskSpec, changed: Collection[str]) -> str | None:
    """Return the parameter whose value is another now and that a task uses, by a reference or by its variable."""
    if not changed:
        return None
    plain = task.to_dict()
    text = json.dumps(plain)
    named = {one.param for one in references(plain)}
    judged = _judged_by(task, changed)
    for name in changed:
        if name in named or name in judged or f"CIS_PARAM_{name.upper()}" in text:
            return f"it uses the parameter {name}"
    return None


def _judged_by(task: TaskSpec, changed: Collection[str]) -> Collection[str]:
    """Return which of the parameters that changed a task's condition uses."""
    if task.when is None:
        return ()
    from cis.model.conditions import uses  # noqa: PLC0415 - few tasks have one

    used = uses(task.when).params
    return changed if used is None else used


def _difference(old: TaskSpec, new: TaskSpec) -> str:
    before, now = old.to_dict(), new.to_dict()
    return ", ".join(name for name in {**before, **now} if before.get(name) != now.get(name))


def _check_upstream(
    old: RunRecord, spec: DagSpec, tasks: Mapping[str, TaskRecord], how: Repeat, again: Collection[str]
) -> None:
    asked = next((task for task in spec.tasks if task.id == _whole_of(how.task)), None)
    for name in asked.depends_on if asked is not None and asked.trigger_rule.needs_no_failure else ():
        if name not in again and not _keeps(tasks[name]):
            status = tasks[name].status
            raise _not_yet(
                old, f", but task {name!r}, which {how.task!r} needs, is {status}; repeat that one, or --from-failed"
            )


def _taken_over(task: TaskRecord) -> TaskRecord:
    return task._replace(
        version=1, attempts=0, failures=0, due_at_us=None, error=None if task.outcome is None else task.error
    )


def _children_to_mend(
    spec: DagSpec, tasks: Mapping[str, TaskRecord], how: Repeat, again: Collection[str]
) -> Iterator[TaskRecord]:
    """Yield DAGs as tasks whose new run is to take over what completed of the old one (``taken_over``)."""
    for task in spec.tasks if how.from_failed else ():
        old = tasks.get(task.id)
        if task.id in again and task.skill == DAG_SKILL and old is not None and old.child_run_id is not None:
            yield TaskRecord(run_id="", task_no=0, task_id=task.id, child_run_id=old.child_run_id)


def _not_yet(run: RunRecord, because: str) -> IllegalStateError:
    return IllegalStateError(f"run {run.run_id}", run.status, "rerun", because=because)


def only(spec: DagSpec, task_id: str) -> DagSpec:
    """Return a DAG of one task and what it needs, without handlers. Raises NotFoundError."""
    numbers = {task.id: number for number, task in enumerate(spec.tasks)}
    if task_id not in numbers:
        raise NotFoundError("task", task_id, hint=f"in {spec.dag_id}{did_you_mean(task_id, list(numbers))}")
    wanted, graph = {numbers[task_id]}, Graph.of(spec.tasks)
    waiting = list(wanted)
    while waiting:
        new = [parent for parent in graph.parents[waiting.pop()] if parent not in wanted]
        wanted.update(new)
        waiting += new
    return replace(spec, tasks=tuple(task for number, task in enumerate(spec.tasks) if number in wanted), handlers={})
