"""The tree of an expression: frozen nodes, each with the place in the text where it begins, or where its operator stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Union

Value = Any
"""A value: None, bool, int (64 bits), float, str, a list, or a dict whose keys are ``cis.model.cel.values.key_of``."""


class Literal(NamedTuple):
    """A value that is written out."""

    value: bool | int | float | str | None
    at: int


class Name(NamedTuple):
    """A variable: one that the evaluation is given, or that a macro binds."""

    name: str
    at: int


class Select(NamedTuple):
    """``operand.field``."""

    operand: Node
    field: str
    at: int


class Has(NamedTuple):
    """``has(operand.field)``."""

    operand: Node
    field: str
    at: int


class Index(NamedTuple):
    """``operand[place]``: an item of a list, or what a map has under a key."""

    operand: Node
    place: Node
    at: int


class Call(NamedTuple):
    """A function or an operator, and what it is given; of ``a.f(b)``, *a* is the first."""

    function: str
    args: tuple[Node, ...]
    at: int


class And(NamedTuple):
    """``a && b && …``."""

    args: tuple[Node, ...]
    at: int


class Or(NamedTuple):
    """``a || b || …``."""

    args: tuple[Node, ...]
    at: int


class Choice(NamedTuple):
    """``condition ? yes : no``."""

    condition: Node
    yes: Node
    no: Node
    at: int


class ListOf(NamedTuple):
    """``[a, b]``."""

    items: tuple[Node, ...]
    at: int


class MapOf(NamedTuple):
    """``{a: b}``."""

    pairs: tuple[tuple[Node, Node], ...]
    at: int


class Loop(NamedTuple):
    """A macro over the items of a list or the keys of a map: ``source.macro(variable, body)``.

    Of ``map`` with three arguments, *only* is the second.
    """

    macro: str
    source: Node
    variable: str
    body: Node
    only: Node | None
    at: int


Node = Union[Literal, Name, Select, Has, Index, Call, And, Or, Choice, ListOf, MapOf, Loop]  # noqa: UP007 - names of later


def parts(node: Node) -> Iterable[Node]:
    """Return the nodes directly below one."""
    return _PARTS[type(node)](node)


def _of_map(node: MapOf) -> Iterable[Node]:
    return [part for pair in node.pairs for part in pair]


def _of_loop(node: Loop) -> Iterable[Node]:
    return (node.source, node.body) if node.only is None else (node.source, node.body, node.only)


_PARTS: Mapping[type, Callable[[Any], Iterable[Node]]] = {
    Literal: lambda _: (),
    Name: lambda _: (),
    Select: lambda node: (node.operand,),
    Has: lambda node: (node.operand,),
    Index: lambda node: (node.operand, node.place),
    Call: lambda node: node.args,
    And: lambda node: node.args,
    Or: lambda node: node.args,
    Choice: lambda node: (node.condition, node.yes, node.no),
    ListOf: lambda node: node.items,
    MapOf: _of_map,
    Loop: _of_loop,
}


def height(node: Node) -> int:
    """Return how deep a tree is: 1 for a node with nothing below it. Never recursive."""
    highest, level = 0, [node]
    while level:
        highest += 1
        level = [part for one in level for part in parts(one)]
    return highest
