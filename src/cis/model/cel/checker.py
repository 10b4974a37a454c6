"""What can be said of an expression before it is evaluated: names that do not exist, values that no operator takes.

Types are known where they are written out or follow from an operator; all else is ``dyn``. What is refused here, CEL's own
checker refuses as well; it refuses more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cis.model.cel.nodes import And, Call, Choice, Has, Index, ListOf, Literal, Loop, MapOf, Name, Node, Or, Select
from cis.model.cel.values import kind_of

DYN, BOOL, INT, DOUBLE, STRING, LIST, MAP, NULL = (
    "dyn",
    "a bool",
    "an int",
    "a double",
    "a string",
    "a list",
    "a map",
    "null",
)
_NUMBERS = (INT, DOUBLE)

Resolve = Callable[[tuple[str, ...], int], str]
"""Returns the type of a path of names that begins with a variable, as ``("tasks", "a", "status")``; ValueError: what is wrong with it."""


class Checked(NamedTuple):
    """The type of an expression, what is wrong with it (messages with their places), and whether it names a variable."""

    kind: str
    faults: list[tuple[str, int]]
    names: bool


def check(
    node: Node, names: Mapping[str, Resolve], *, unknown: Callable[[str], str] = "there is no {}".format
) -> Checked:
    """Check a tree; *names* are the variables, and *unknown* says what is wrong with a name that is not among them."""
    checker = _Checker(names, unknown)
    kind = checker.kind(node)
    return Checked(kind, checker.faults, checker.named)


class _Checker:
    def __init__(self, names: Mapping[str, Resolve], unknown: Callable[[str], str]) -> None:
        self.faults: list[tuple[str, int]] = []
        self.named = False
        self._names = names
        self._unknown = unknown
        self._bound: list[str] = []

    def kind(self, node: Node) -> str:
        """Return the type of a node; its faults, and those of all below it, are noted."""
        path = self._path(node)
        if path is not None:
            return self._resolved(path, node)
        return _KINDS[type(node)](self, node)

    def literal(self, node: Literal) -> str:
        return kind_of(node.value)

    def name(self, _node: Name) -> str:
        return DYN

    def select(self, node: Select | Has) -> str:
        self._demand(self.kind(node.operand), (MAP,), f"{{}} has no .{node.field}", node.at)
        return BOOL if isinstance(node, Has) else DYN

    def decided(self, node: And | Or) -> str:
        for arg in node.args:
            self._demand(self.kind(arg), (BOOL,), "this is {}, not true or false", arg.at)
        return BOOL

    def choice(self, node: Choice) -> str:
        self._demand(self.kind(node.condition), (BOOL,), "what stands before ? is {}, not true or false", node.at)
        kinds = {self.kind(node.yes), self.kind(node.no)}
        return kinds.pop() if len(kinds) == 1 else DYN

    def list_of(self, node: ListOf) -> str:
        for item in node.items:
            self.kind(item)
        return LIST

    def map_of(self, node: MapOf) -> str:
        for key, value in node.pairs:
            self._demand(self.kind(key), (STRING, INT, BOOL), "{} is not a key of a map", key.at)
            self.kind(value)
        return MAP

    def _path(self, node: Node) -> tuple[str, ...] | None:
        """Return the names that a node consists of: a variable, and what is selected of it; None: it is something else."""
        names: list[str] = []
        while not isinstance(node, Name):
            if isinstance(node, Select | Has):
                names.append(node.field)
                node = node.operand
            elif isinstance(node, Index) and isinstance(node.place, Literal) and isinstance(node.place.value, str):
                names.append(node.place.value)
                node = node.operand
            else:
                return None
        return (node.name, *reversed(names))

    def _resolved(self, path: tuple[str, ...], node: Node) -> str:
        if path[0] in self._bound:
            return BOOL if isinstance(node, Has) else DYN
        self.named = True
        if path[0] not in self._names:
            self.faults.append((self._unknown(path[0]), node.at))
            return DYN
        try:
            kind = self._names[path[0]](path, node.at)
        except ValueError as error:
            self.faults.append((str(error), node.at))
            kind = DYN
        return BOOL if isinstance(node, Has) else kind

    def _demand(self, kind: str, wanted: tuple[str, ...], message: str, at: int) -> None:
        if kind not in (DYN, *wanted):
            self.faults.append((message.format(kind), at))

    def index(self, node: Index) -> str:
        operand, index = self.kind(node.operand), self.kind(node.place)
        self._demand(operand, (LIST, MAP), "{} has no [ ]", node.at)
        if operand == LIST:
            self._demand(index, (INT,), "a list has places 0, 1, 2 …, not {}", node.at)
        return DYN

    def loop(self, node: Loop) -> str:
        self._demand(
            self.kind(node.source), (LIST, MAP), f"{node.macro}() goes over lists and maps, not over {{}}", node.at
        )
        self._bound.append(node.variable)
        body = self.kind(node.body)
        conditions = [(self.kind(node.only), node.only.at)] if node.only is not None else []
        if node.macro != "map":
            conditions.append((body, node.body.at))
        for kind, at in conditions:
            self._demand(kind, (BOOL,), "this is {}, not true or false", at)
        self._bound.pop()
        return LIST if node.macro in ("map", "filter") else BOOL

    def call(self, node: Call) -> str:
        kinds = [self.kind(arg) for arg in node.args]
        match node.function:
            case "==" | "!=":
                self._alike(node, kinds, numbers=True)
                return BOOL
            case "<" | "<=" | ">" | ">=":
                for kind in kinds:
                    self._demand(kind, (BOOL, STRING, *_NUMBERS), f"{node.function} does not take {{}}", node.at)
                self._alike(node, kinds, numbers=True)
                return BOOL
            case "in":
                self._demand(kinds[1], (LIST, MAP), "in looks into lists and maps, not into {}", node.at)
                return BOOL
            case "+" | "-" | "*" | "/" | "%":
                return self._calculated(node, kinds)
            case "-_":
                self._demand(kinds[0], _NUMBERS, "- takes a number, not {}", node.at)
                return kinds[0]
            case "!_":
                self._demand(kinds[0], (BOOL,), "! takes true or false, not {}", node.at)
                return BOOL
            case "dyn":
                return DYN
        wanted, kind = _FUNCTIONS[node.function]
        for given, take in zip(kinds, wanted, strict=True):
            self._demand(given, take, f"{node.function}() does not take {{}}", node.at)
        return kind

    def _calculated(self, node: Call, kinds: list[str]) -> str:
        takes = {"+": (INT, DOUBLE, STRING, LIST), "%": (INT,)}.get(node.function, _NUMBERS)
        before = len(self.faults)
        for kind in kinds:
            self._demand(kind, takes, f"{node.function} does not take {{}}", node.at)
        if len(self.faults) == before:
            self._alike(node, kinds, numbers=False)
        known = [kind for kind in kinds if kind != DYN]
        return known[0] if known else DYN

    def _alike(self, node: Call, kinds: list[str], *, numbers: bool) -> None:
        """Note that two sides are of types that never go together."""
        left, right = kinds
        if DYN in kinds or left == right or (numbers and left in _NUMBERS and right in _NUMBERS):
            return
        if NULL in kinds and node.function in ("==", "!="):
            return
        hint = ""
        if STRING in kinds and (left in _NUMBERS or right in _NUMBERS):
            hint = "; int(…) and double(…) make numbers of strings"
        self.faults.append((f"{node.function} does not take {left} and {right}{hint}", node.at))


_TEXTS = ((STRING,), (STRING,))
_FUNCTIONS: Mapping[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "size": (((STRING, LIST, MAP),), INT),
    "int": (((INT, DOUBLE, STRING, BOOL),), INT),
    "double": (((INT, DOUBLE, STRING),), DOUBLE),
    "string": (((INT, DOUBLE, STRING, BOOL),), STRING),
    "bool": (((STRING, BOOL),), BOOL),
    "startsWith": (_TEXTS, BOOL),
    "endsWith": (_TEXTS, BOOL),
    "contains": (_TEXTS, BOOL),
    "matches": (_TEXTS, BOOL),
}
_KINDS: Mapping[type, Callable[[_Checker, Any], str]] = {
    Literal: _Checker.literal,
    Name: _Checker.name,
    Select: _Checker.select,
    Has: _Checker.select,
    Index: _Checker.index,
    Call: _Checker.call,
    And: _Checker.decided,
    Or: _Checker.decided,
    Choice: _Checker.choice,
    ListOf: _Checker.list_of,
    MapOf: _Checker.map_of,
    Loop: _Checker.loop,
}
