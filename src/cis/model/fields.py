"""How a field of a document is declared: once, beside its type and default, in ``cis.model.dag``.

A ``Kind`` is one sort of value: how its spelling is read, what the JSON Schema says of it, and how the value is stored,
read back, checked and sent (``cis.model.kinds`` has them all). Whatever is done with a field follows from its
declaration: the reader of documents and the JSON Schema (``cis.model.document``), the stored form (``StoredForm``) and
what is sent (``cis.model.message``). A test holds the reference to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

_DECLARED = "declared"
_NO_DEFAULT = object()


class Kind(NamedTuple):
    """One sort of value that a field may hold.

    ``read`` returns the value that a spelling in a document stands for; ValueError says why it is none. With ``each``,
    it returns the list or mapping whose parts are read one by one: items as ``each``, or names as ``names`` and values
    as ``each``; ``collect`` makes the value of the list. ``holds`` says whether a value that was read back from the
    database is one. ``to_plain`` and ``from_plain`` are None where the stored form is the value itself, ``to_wire``
    where what is sent is the stored form.
    """

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    holds: Callable[[Any], bool]
    to_plain: Callable[[Any], Any] | None = None
    from_plain: Callable[[Any], Any] | None = None
    to_wire: Callable[[Any], Any] | None = None
    names: Kind | None = None
    each: Kind | None = None
    collect: Callable[[list[Any]], Any] | None = None


class Declared(NamedTuple):
    """A field as it was declared: ``name`` in documents, ``attribute`` in Python.

    Without a default it is required. A ``shared`` one may stand in a DAG's ``defaults``, for every task.
    """

    name: str
    attribute: str
    kind: Kind
    description: str | None
    examples: list[Any] | None
    shared: bool
    default: Any

    @property
    def required(self) -> bool:
        """Whether every document has to have it."""
        return self.default is _NO_DEFAULT


def declared(
    kind: Kind, description: str | None = None, *, examples: list[Any] | None = None, shared: bool = False
) -> dict[str, Any]:
    """Return the metadata of a dataclass's field that is one of a document; its default is the dataclass's.

    The *description* is for the JSON Schema; without one, the kind's own has to do.
    """
    return {_DECLARED: {"kind": kind, "description": description, "examples": examples, "shared": shared}}


def declared_fields(spec: Any) -> tuple[Declared, ...]:
    """Return the declared fields of a dataclass, in their order.

    A document has the name of the attribute, without the unit of a duration: ``timeout_s`` is ``timeout``.
    """
    from dataclasses import MISSING, fields  # noqa: PLC0415 - whoever only lists runs needs none: 10 ms with what it imports

    found = []
    for field in fields(spec):
        if _DECLARED in field.metadata:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            default = _NO_DEFAULT if default is MISSING else default
            name = field.name.removesuffix("_s")
            found.append(Declared(name=name, attribute=field.name, default=default, **field.metadata[_DECLARED]))
    return tuple(found)


class StoredForm:
    """How the declared fields of a dataclass are stored: each under its name, but for those at their default."""

    def __init__(self, spec: type[Any]) -> None:
        fields = declared_fields(spec)
        self.fields = fields
        self._values = attrgetter(*(field.attribute for field in fields))
        self._named = [(field.name, field.default, field.kind.to_plain) for field in fields]
        self._holds = [field.kind.holds for field in fields]
        self._known = {field.name: (field.attribute, field.kind.from_plain) for field in fields}
        self._required = [field.name for field in fields if field.required]

    def plain(self, spec: Any) -> dict[str, Any]:
        """Return what is stored of *spec*."""
        return {
            name: value if to_plain is None else to_plain(value)
            for (name, default, to_plain), value in zip(self._named, self._values(spec), strict=True)
            if value != default
        }

    def arguments(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Return the dataclass's arguments from what is stored. Raises KeyError if a required one is missing."""
        for name in self._required:
            if plain.get(name, _NO_DEFAULT) is _NO_DEFAULT:
                raise KeyError(name)
        known = self._known
        values = {}
        for name in plain:
            if name in known:
                attribute, from_plain = known[name]
                values[attribute] = plain[name] if from_plain is None else from_plain(plain[name])
        return values

    def wrong_field(self, spec: Any) -> str | None:
        """Return the name of the first field whose value is not of its kind; None: all are."""
        for (name, default, _), holds, value in zip(self._named, self._holds, self._values(spec), strict=True):
            if value is not default and not holds(value):
                return name
        return None
