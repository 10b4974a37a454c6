"""From a document to a DagSpec: every fault is found in one go, each with its place.

Fields are checked one by one by pydantic, as they are declared in ``cis.model.dag``. What holds between tasks (ids,
dependencies, cycles and references) is checked on the plain tree (``cis.model.relations``), so that a wrong field hides
no wrong edge. The JSON Schema of a document is made of the same fields (``cis.model.schema``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import GenericAlias
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from cis.errors import DocumentError, Fault
from cis.model.dag import COMMAND_SKILL, DAG_FORM, HANDLER, TASK_FORM, DagSpec, Json, TaskSpec
from cis.model.fields import Declared, Kind
from cis.model.formats import Format, load_document
from cis.model.handlers import NAMES, NOT_IN_HANDLERS, TIMEOUT_S, handler_faults, handlers_of
from cis.model.ids import did_you_mean
from cis.model.kinds import DIRECTORY, MAX_TASKS, kind_of
from cis.model.params import declaration_faults
from cis.model.relations import WORDS_OF_A_DAG, WORDS_OF_A_TASK, relation_faults, says_otherwise
from cis.model.task_kinds import PARAMS
from cis.model.tree import Path, Tree, clipped, place

_M = TypeVar("_M", bound=BaseModel)
MAX_FAULTS = 100
IGNORED = "x-"  # fields that begin so are the author's own, as for YAML anchors

# What other tools say beside a field, or in its place: the name, the values if they are not the field's own, and what
# the schema says.
_OTHER_SPELLINGS: Mapping[str, tuple[str, Any, str]] = {
    "skill": (
        "type",
        Literal["shell", "skill"],
        "Accepted from other tools, where it agrees: shell with command, skill with skill.",
    ),
    "depends_on": ("deps", None, "Another spelling of depends_on."),
}
_ATTRIBUTES = {field.name: field.attribute for field in (*DAG_FORM.fields, *TASK_FORM.fields)} | {"deps": "depends_on"}


def _type_of(kind: Kind) -> Any:
    """Return the type for pydantic that is read as *kind* says."""
    schema = WithJsonSchema(dict(kind.schema))
    if kind.each is None:
        return Annotated[Any, PlainValidator(kind.read), schema]
    parts = tuple(_type_of(part) for part in (kind.names, kind.each) if part)
    whole = GenericAlias(dict if kind.names else list, parts)
    collected = [AfterValidator(kind.collect)] if kind.collect else []
    return Annotated[(whole, BeforeValidator(kind.read), *collected, schema)]


def _fields_of(declared: Iterable[Declared]) -> dict[str, Any]:
    """Return the fields of a pydantic model; what is left out is None."""
    made: dict[str, Any] = {}
    for field in declared:
        kind = _type_of(field.kind)
        said: dict[str, Any] = {"description": field.description, "examples": field.examples}
        made[field.name] = (kind, Field(**said)) if field.required else (kind | None, Field(default=None, **said))
        if field.name in _OTHER_SPELLINGS:
            name, other, description = _OTHER_SPELLINGS[field.name]
            made[name] = ((other or kind) | None, Field(default=None, description=description))
    return made


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        json_schema_extra={"patternProperties": {f"^{IGNORED}": {"description": "Ignored: a place for YAML anchors."}}},
    )

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, value: Any) -> Any:
        """Return *value* without the fields that are the author's own."""
        if isinstance(value, dict) and any(str(name).startswith(IGNORED) for name in value):
            return {name: item for name, item in value.items() if not str(name).startswith(IGNORED)}
        return value


Tries = create_model(
    "Tries",
    __base__=_Model,
    __doc__="What ``defaults`` may say for every task that does not say otherwise.",
    **_fields_of(field for field in TASK_FORM.fields if field.shared),
)
TaskDocument = create_model(
    "TaskDocument",
    __base__=Tries,
    __doc__="One task: exactly one of command and skill.",
    **_fields_of(field for field in TASK_FORM.fields if not field.shared),
)
HandlerDocument = create_model(
    "HandlerDocument",
    __base__=Tries,
    __doc__="One handler: a task without an id and dependencies.",
    **_fields_of(field for field in TASK_FORM.fields if not field.shared and field.name not in NOT_IN_HANDLERS),
)
_handlers: dict[str, Any] = {name: (HandlerDocument | None, Field(default=None)) for name in NAMES}
Handlers = create_model("Handlers", __base__=_Model, __doc__="Tasks that run when the rest is over.", **_handlers)
_described = {field.name: field.description for field in DAG_FORM.fields}
_Head = create_model(
    "_Head",
    __base__=_Model,
    __doc__="A DAG without its tasks.",
    **_fields_of(DAG_FORM.fields)
    | {
        "handlers": (Handlers | None, Field(default=None, description=_described["handlers"])),
        "cwd": (_type_of(DIRECTORY) | None, Field(default=None, description="Where tasks run that do not say.")),
        "defaults": (Tries | None, Field(default=None, description="For every task that does not say otherwise.")),
    },
)
_tasks: Any = GenericAlias(list, (TaskDocument,))
DagDocument = create_model(
    "DagDocument",
    __base__=_Head,
    __doc__="A DAG: tasks, and what they depend on.",
    tasks=(_tasks, Field(min_length=1, max_length=MAX_TASKS, description="In any order.")),
)


def parse_dag(data: bytes, *, format: Format | None = None, source: str | None = None) -> DagSpec:  # noqa: A002
    """Return the DAG that a document's bytes spell; without *format* the notation is found out.

    Raises:
        DocumentTooLargeError: over 16 MiB.
        MalformedDocumentError: no YAML, JSON or TOML mapping.
        DocumentError: all of its faults, with their places.
    """
    return _dag(load_document(data, format=format, source=source), source=source)


class Asked(NamedTuple):
    """What somebody hands in: a DAG, or the id of a stored one, and what its parameters are given."""

    dag: DagSpec | str
    params: Mapping[str, Json]


def parse_request(data: bytes, *, format: Format | None = None) -> Asked:  # noqa: A002
    """Return what a request asks for: a document, or ``{"dag": document or id, "params": {…}}``.

    Raises:
        CisError: as ``parse_dag`` does.
    """
    tree = load_document(data, format=format)
    root = tree.root
    if "dag" not in root or "dag_id" in root or "tasks" in root:
        return Asked(_dag(tree, source=None), {})
    faults = _Faults(path for path, _ in tree.faults)
    faults.extend(tree.faults)
    faults.extend(((name,), "is not known; known: dag, params") for name in root if name not in ("dag", "params"))
    dag, params = getattr(root["dag"], "text", root["dag"]), root.get("params")
    if not isinstance(dag, str | dict):
        faults.extend([(("dag",), f"must be a document, or the id of a stored DAG, not {kind_of(dag)}")])
    given: Mapping[str, Json] = {}
    try:
        given = {} if params is None else PARAMS.read(params)
    except ValueError as error:
        faults.extend([(("params",), str(error))])
    if found := faults.listed(tree):
        raise DocumentError(found)
    return Asked(dag if isinstance(dag, str) else _dag(Tree(dag), source=None), given)


def dag_from_plain(plain: Mapping[str, Json], *, source: str | None = None) -> DagSpec:
    """Return the DAG that a plain mapping holds. Raises DocumentError with all of its faults."""
    return _dag(Tree(dict(plain)), source=source)


def with_head(spec: DagSpec, given: Mapping[str, str], *, source: str) -> DagSpec:
    """Return *spec* with its scope, target node or priority as *given*. Raises DocumentError with all faults."""
    faults = _Faults()
    head = faults.checked(_Head, {"dag_id": spec.dag_id, **given})
    if head is None:
        raise DocumentError(faults.listed(Tree(dict(given))), source=source)
    return replace(spec, **{name: getattr(head, name) for name in given})


class _Faults:
    """Faults as they are found, up to a bound: a document of 16 MiB has room for millions."""

    def __init__(self, known: Iterable[Path] = ()) -> None:
        """Begin without any; one fault is enough for each of the places that are *known* for one."""
        self._found: dict[tuple[Path, str], None] = {}
        self._known = set(known)

    @property
    def full(self) -> bool:
        """Whether there are more than are shown."""
        return len(self._found) > MAX_FAULTS

    def extend(self, faults: Iterable[tuple[Path, str]]) -> None:
        """Take *faults* as far as there is room."""
        for path, message in faults:
            if self.full:
                return
            if path in self._known and any(found == path for found, _ in self._found):
                continue
            self._found[path, clipped(message)] = None

    def checked(self, model: type[_M], value: Json, *, at: Path = ()) -> _M | None:
        """Return *value* as *model*, or None and its faults."""
        try:
            return model.model_validate(_narrowed(value, model))
        except ValidationError as error:
            self.extend(_field_faults(error, model, at=at))
            return None

    def listed(self, tree: Tree) -> list[Fault]:
        """Return what was found, with lines."""
        shown = [Fault(place=place(path), message=text, line=tree.line(path)) for path, text in self._found]
        if self.full:
            shown[MAX_FAULTS:] = [Fault(place="", message="and more; mend these first")]
        return shown


def _dag(tree: Tree, *, source: str | None) -> DagSpec:
    faults = _Faults(path for path, _ in tree.faults)
    faults.extend(tree.faults)
    root = tree.root
    head = faults.checked(_Head, {name: value for name, value in root.items() if name not in ("tasks", "handlers")})
    listed = root.get("tasks")
    faults.extend((("tasks",), message) for message in _list_faults(root))
    tasks: list[BaseModel] = []
    for number, task in enumerate(listed if isinstance(listed, list) else ()):
        checked = faults.checked(TaskDocument, task, at=("tasks", number))
        if checked is not None:
            tasks.append(checked)
        if faults.full:
            break
    handlers = {}
    for name, task in handlers_of(root):
        checked = faults.checked(HandlerDocument, task, at=("handlers", name))
        if checked is not None:
            handlers[name] = checked
    faults.extend(handler_faults(root))
    faults.extend(declaration_faults(root.get("params")))
    faults.extend(relation_faults(root))
    found = faults.listed(tree)
    if found or head is None:
        raise DocumentError(found, source=source)
    return _spec(head, tasks, handlers)


def _list_faults(root: Mapping[str, Json]) -> Iterator[str]:
    tasks = root.get("tasks")
    if "tasks" not in root:
        if not says_otherwise(root, "tasks", WORDS_OF_A_DAG):
            yield "is missing"
    elif not isinstance(tasks, list):
        yield f"must be a list, not {kind_of(tasks)}"
    elif not tasks:
        yield "is empty; a DAG has at least one task"
    elif len(tasks) > MAX_TASKS:
        yield f"holds {len(tasks):,} tasks; {MAX_TASKS:,} at most"


def _narrowed(value: Json, model: type[BaseModel]) -> Json:
    """Return *value* without most of its unknown fields, if they are very many: each costs a fault."""
    if not isinstance(value, dict) or len(value) <= len(model.model_fields) + MAX_FAULTS:
        return value
    unknown = islice((name for name in value if name not in model.model_fields), MAX_FAULTS + 1)
    return {name: value[name] for name in (*(name for name in model.model_fields if name in value), *unknown)}


def _field_faults(error: ValidationError, model: type[BaseModel], *, at: Path) -> Iterator[tuple[Path, str]]:
    for found in error.errors(include_url=False):
        path = tuple(part for part in found["loc"] if part != "[key]")
        words = WORDS_OF_A_DAG if model is _Head else WORDS_OF_A_TASK
        if found["type"] == "missing" and says_otherwise(found["input"], str(path[-1]), words):
            continue  # what stands in its place is a fault by itself
        yield (*at, *path), _message(found["type"], found, path, model)


def _message(kind: str, found: Mapping[str, Any], path: Path, model: type[BaseModel]) -> str:
    value = found["input"]
    if kind == "extra_forbidden":
        if path[0] == "defaults":
            model = Tries
        elif model is _Head:
            model = DagDocument
        if model is HandlerDocument and str(path[-1]) in NOT_IN_HANDLERS:
            return NOT_IN_HANDLERS[str(path[-1])]
        word = (WORDS_OF_A_DAG if model is DagDocument else WORDS_OF_A_TASK).get(str(path[-1]))
        if word is not None:
            return f"is another tool's word; here it is {word!r}"
        known = sorted(model.model_fields)
        return f"is not a field here{did_you_mean(str(path[-1]), known) or '; known: ' + ', '.join(known)}"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"must be a mapping, not {kind_of(value)}"
    if kind == "list_type":
        return f"must be a list, not {kind_of(value)}"
    if kind == "value_error":
        return str(found["ctx"]["error"])
    return str(found["msg"])[:1].lower() + str(found["msg"])[1:]


def _spec(head: BaseModel, tasks: Sequence[BaseModel], handlers: Mapping[str, BaseModel]) -> DagSpec:
    own = _given(head)
    own.pop("handlers", None)
    where = {"cwd": own.pop("cwd")} if "cwd" in own else {}  # stored with each task: nodes of before know it there
    shared = {**where, **_given(vars(head)["defaults"])}
    given = {name: {"timeout_s": TIMEOUT_S, **_given(task), "id": HANDLER + name} for name, task in handlers.items()}
    return DagSpec(
        tasks=tuple(_task(shared, _given(task)) for task in tasks),
        handlers={name: _task(shared, task) for name, task in given.items()},
        **own,
    )


def _task(shared: Mapping[str, Any], own: Mapping[str, Any]) -> TaskSpec:
    """Return a task with what it gives itself, over what is *shared* by all that can have it."""
    values = {**shared, **own}
    if "env" in shared:
        values["env"] = {**shared["env"], **own.get("env", {})}
    if not isinstance(values.get("command"), str) and values.get("skill") != COMMAND_SKILL:
        values.pop("shell", None)
    return TaskSpec(**values)


def _given(document: BaseModel | None) -> dict[str, Any]:
    """Return the values that a part of a document gives, by the attributes of the spec that gets them."""
    return {
        _ATTRIBUTES[name]: value
        for name, value in (vars(document).items() if document else ())
        if value is not None and name in _ATTRIBUTES
    }
