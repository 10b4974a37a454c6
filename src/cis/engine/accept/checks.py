"""What is checked of a DAG before it is accepted, beyond its document: skills, secrets, and the values of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cis.engine.ports import SkillBook
from cis.engine.this_node import ThisNode
from cis.errors import DocumentError, Fault, NotFoundError
from cis.model.dag import DagSpec, Json
from cis.model.references import fill, refers, text_of
from cis.model.scope import Scope

if TYPE_CHECKING:
    from cis.model.params import Given

_PASTED = 'a shell interprets this, so nothing may be pasted in; put the reference into env and write "$NAME"'
NO_PARAMS: Mapping[str, Json] = MappingProxyType({})


def values_of(spec: DagSpec, given: Given) -> Mapping[str, Json]:
    """Return the values that a run of a DAG has for its parameters. Raises DocumentError with all faults."""
    if not spec.params and not given:
        return NO_PARAMS
    from cis.model.params import param_values  # noqa: PLC0415 - most DAGs have none

    return param_values(spec.params, given)


def check_skills(spec: DagSpec, skills: SkillBook) -> None:
    """Raise DocumentError with every unknown skill and every faulty parameter of the DAG."""
    refuse_faults(skill_faults(spec, skills))


def refuse_faults(skill_faults: Iterable[tuple[Fault, bool]], *, all_known: bool = True) -> None:
    """Raise DocumentError with the faults of the DAG's skills, if there are any.

    Where another node executes it, it may have skills that are not known here (*all_known* False).
    """
    faults = [fault for fault, is_unknown in skill_faults if all_known or not is_unknown]
    if faults:
        raise DocumentError(faults)


def skill_faults(spec: DagSpec, skills: SkillBook) -> Iterator[tuple[Fault, bool]]:
    """Yield each fault of its tasks' skills, and whether it is that this node has no such skill."""
    for number, task in enumerate(spec.every_task):
        if task.skill is None:
            continue
        place = spec.place_of(number)
        try:
            skill = skills.get(task.skill)
        except NotFoundError as error:
            yield Fault(place=f"{place}.skill", message=str(error)), True
            continue
        for name, message in skill.check(task.params):
            yield Fault(place=f"{place}.params.{name}" if name else f"{place}.params", message=message), False
        for name in sorted(skill.literal_params & task.params.keys()):
            if refers(task.params[name], many=task.is_many):
                yield Fault(place=f"{place}.params.{name}", message=_PASTED), False


def check_secrets(
    spec: DagSpec, scope: Scope, this_node: ThisNode, *, params: Mapping[str, Json] | None = None
) -> None:
    """Raise DocumentError with every secret that *scope* may not have on this node, where the DAG is to run.

    One that the node lacks is no fault: it may be there when the task starts. Without *params* those that a parameter
    names are not known yet.
    """

    def secret(name: str) -> str:
        return (
            name if params is None or "${" not in name else text_of(fill(name, lambda one: params.get(one.param or "")))
        )

    asked = {secret(name) for task in spec.every_task for name in task.secrets.values()}
    refused = this_node.secrets.refused(asked, scope=scope) if asked and this_node.secrets is not None else {}
    if refused:
        raise DocumentError(
            [
                Fault(place=f"{spec.place_of(number)}.secrets", message=refused[secret(name)])
                for number, task in enumerate(spec.every_task)
                for name in task.secrets.values()
                if secret(name) in refused
            ]
        )
