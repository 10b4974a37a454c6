"""The value of an expression over JSON values, in bounded steps.

Names are looked up in a mapping. Each node that is looked at is a step; what copies, compares or searches costs steps for
what it looks at; and what is made (strings, items of lists) has a bound of its own. ``&&``, ``||``, ``all`` and ``exists``
are commutative, as CEL has it: an error on one side is passed over where the other side decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cis.model.cel.costs import MAX_STEPS, Costs
from cis.model.cel.faults import CelError, UnknownError
from cis.model.cel.nodes import (
    And,
    Call,
    Choice,
    Has,
    Index,
    ListOf,
    Literal,
    Loop,
    MapOf,
    Name,
    Node,
    Or,
    Select,
    Value,
)
from cis.model.cel.operators import CALLS
from cis.model.cel.values import NO_KEY, is_in_range, key_of, keys, kind_of, to_text

_SHOWN_KEYS = 20


def evaluate(node: Node, names: Mapping[str, Value], *, most_steps: int = MAX_STEPS) -> Value:
    """Return the value of a tree, in *most_steps*.

    Raises:
        CelError: it has none; UnknownError where a name is not among *names*.
        CostError: it takes too long, or makes too much.
    """
    return Evaluation(names, most_steps=most_steps).value(node)


class Evaluation:
    """One evaluation: what names stand for, and what it has cost so far (``costs``)."""

    def __init__(self, names: Mapping[str, Value], *, most_steps: int = MAX_STEPS) -> None:
        self.costs = Costs(most_steps)
        self._names = dict(names)

    def value(self, node: Node) -> Value:
        """Return the value of a tree, as ``evaluate`` does."""
        self.costs.spend(1)
        return _VALUES[type(node)](self, node)

    def literal(self, node: Literal) -> Value:
        return node.value

    def name(self, node: Name) -> Value:
        if node.name not in self._names:
            raise UnknownError(f"{node.name} is not known", node.at)
        return self._names[node.name]

    def select(self, node: Select) -> Value:
        operand = self.value(node.operand)
        if type(operand) is not dict:
            raise CelError(f"{kind_of(operand)} has no .{node.field}", node.at)
        if node.field not in operand:
            raise _no_key(node.field, operand, node.at)
        return operand[node.field]

    def has(self, node: Has) -> bool:
        operand = self.value(node.operand)
        if type(operand) is not dict:
            raise CelError(f"{kind_of(operand)} has no .{node.field}", node.at)
        return node.field in operand

    def index(self, node: Index) -> Value:
        operand, index = self.value(node.operand), self.value(node.place)
        if type(operand) is dict:
            key = key_of(index)
            if key is None:
                raise CelError(f"{kind_of(index)} is not a key of a map", node.at)
            if key not in operand:
                raise _no_key(index, operand, node.at)
            return operand[key]
        if type(operand) is not list:
            raise CelError(f"{kind_of(operand)} has no [ ]", node.at)
        if type(index) is float and index.is_integer() and is_in_range(int(index)):
            index = int(index)
        if type(index) is not int:
            raise CelError(f"a list has places 0, 1, 2 …, not {kind_of(index)}", node.at)
        if not 0 <= index < len(operand):
            raise CelError(f"there is no [{index}] in a list of {len(operand)}", node.at)
        return operand[index]

    def list_of(self, node: ListOf) -> list[Value]:
        self.costs.make(len(node.items))
        return [self.value(item) for item in node.items]

    def map_of(self, node: MapOf) -> dict[Value, Value]:
        self.costs.make(len(node.pairs))
        made: dict[Value, Value] = {}
        for key_node, value_node in node.pairs:
            value = self.value(key_node)
            if type(value) not in (str, int, bool):
                raise CelError(f"{kind_of(value)} is not a key of a map", key_node.at)
            key = key_of(value)
            if key in made:
                raise CelError(f"the key {to_text(value)} stands twice in a map", key_node.at)
            made[key] = self.value(value_node)
        return made

    def both(self, node: And) -> bool:
        return self._decided(node, by=False)

    def either(self, node: Or) -> bool:
        return self._decided(node, by=True)

    def _decided(self, node: And | Or, *, by: bool) -> bool:
        """Return *by* if any argument is that; else there must be no error.

        Of several errors the first is told, but what is not known goes before what failed, and where only the first
        argument is neither true nor false, what the second failed with.
        """
        failed: CelError | None = None
        odd: CelError | None = None
        for number, arg in enumerate(node.args):
            try:
                value = self.value(arg)
            except CelError as error:
                failed = _first(failed, error)
                continue
            if value is by:
                return value is True
            if number == 1 and odd is not None:
                failed = _first(failed, odd)
            if type(value) is not bool:
                odd = _not_bool(value, arg.at)
                failed = failed if number == 0 else _first(failed, odd)
        if failed is not None:
            raise failed
        return not by

    def choice(self, node: Choice) -> Value:
        condition = self.value(node.condition)
        if type(condition) is not bool:
            raise CelError(f"what stands before ? is {kind_of(condition)}, not true or false", node.at)
        return self.value(node.yes if condition else node.no)

    def loop(self, node: Loop) -> Value:
        source = self.value(node.source)
        if type(source) is not list and type(source) is not dict:
            raise CelError(f"{node.macro}() goes over lists and maps, not over {kind_of(source)}", node.at)
        items = keys(source) if isinstance(source, dict) else source
        names, variable = self._names, node.variable
        outer = names.get(variable, NO_KEY)
        try:
            return _LOOPS[node.macro](self, node, items)
        finally:
            if outer is NO_KEY:
                names.pop(variable, None)
            else:
                names[variable] = outer

    def loop_all(self, node: Loop, items: Any) -> bool:
        return self._quantified(node, items, by=False)

    def loop_exists(self, node: Loop, items: Any) -> bool:
        return self._quantified(node, items, by=True)

    def _quantified(self, node: Loop, items: Any, *, by: bool) -> bool:
        failed: CelError | None = None
        for item in items:
            self._names[node.variable] = item
            try:
                value = self.value(node.body)
            except CelError as error:
                failed = _first(failed, error)
                continue
            if value is by:
                return value is True
            if type(value) is not bool:
                failed = _first(failed, _not_bool(value, node.body.at))
        if failed is not None:
            raise failed
        return not by

    def loop_exists_one(self, node: Loop, items: Any) -> bool:
        return sum(self._holds(node.body, node, item) for item in items) == 1

    def loop_filter(self, node: Loop, items: Any) -> list[Value]:
        kept = []
        for item in items:
            if self._holds(node.body, node, item):
                self.costs.make(1)
                kept.append(item)
        return kept

    def loop_map(self, node: Loop, items: Any) -> list[Value]:
        made = []
        for item in items:
            self._names[node.variable] = item
            if node.only is None or self._holds(node.only, node, item):
                self.costs.make(1)
                made.append(self.value(node.body))
        return made

    def _holds(self, condition: Node, node: Loop, item: Value) -> bool:
        self._names[node.variable] = item
        value = self.value(condition)
        if type(value) is not bool:
            raise _not_bool(value, condition.at)
        return value

    def call(self, node: Call) -> Value:
        args = [self.value(arg) for arg in node.args]
        return CALLS[node.function](self.costs, node, *args)


def _first(failed: CelError | None, error: CelError) -> CelError:
    """Return which of two errors is told: the first, unless the second is that something is not known."""
    unknown = isinstance(error, UnknownError) and not isinstance(failed, UnknownError)
    return error if failed is None or unknown else failed


def _not_bool(value: Value, at: int) -> CelError:
    return CelError(f"this is {kind_of(value)}, not true or false", at)


def _no_key(key: Value, operand: dict[Value, Value], at: int) -> CelError:
    known = ", ".join(sorted(str(to_text(one)) for one in keys(operand))[:_SHOWN_KEYS]) or "nothing"
    return CelError(f"there is no {str(to_text(key))[:60]!r} (there is: {known[:400]})", at)


_VALUES: dict[type, Callable[[Evaluation, Any], Value]] = {
    Literal: Evaluation.literal,
    Name: Evaluation.name,
    Select: Evaluation.select,
    Has: Evaluation.has,
    Index: Evaluation.index,
    Call: Evaluation.call,
    And: Evaluation.both,
    Or: Evaluation.either,
    Choice: Evaluation.choice,
    ListOf: Evaluation.list_of,
    MapOf: Evaluation.map_of,
    Loop: Evaluation.loop,
}
_LOOPS: dict[str, Callable[[Evaluation, Loop, Any], Value]] = {
    "all": Evaluation.loop_all,
    "exists": Evaluation.loop_exists,
    "exists_one": Evaluation.loop_exists_one,
    "filter": Evaluation.loop_filter,
    "map": Evaluation.loop_map,
}
