"""Operators and functions: what each makes of values. Each takes the costs, its node, and the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cis.model.cel.costs import Costs
from cis.model.cel.faults import CelError
from cis.model.cel.nodes import Call, Value
from cis.model.cel.values import compare, is_in_range, key_of, kind_of, to_bool, to_double, to_int, to_text
from cis.model.patterns import MAX_PATTERN, matcher

MAX_DATA_NESTING = 100  # of values that are compared
_T = TypeVar("_T", int, float, bool)
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}
_HOLDS: Mapping[str, tuple[int, ...]] = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0)}


def _equal(costs: Costs, node: Call, left: Value, right: Value) -> bool:
    return _same(costs, left, right, depth=0, at=node.at)


def _unequal(costs: Costs, node: Call, left: Value, right: Value) -> bool:
    return not _same(costs, left, right, depth=0, at=node.at)


def _same(costs: Costs, left: Value, right: Value, *, depth: int, at: int) -> bool:
    costs.spend(1)
    one, other = type(left), type(right)
    if one is not other:
        if not ((one is int or one is float) and (other is int or other is float)):
            return False
        return float(left) == float(right)
    if one is not list and one is not dict:
        if one is str:
            costs.read(min(len(left), len(right)))
        return bool(left == right)
    if depth > MAX_DATA_NESTING:
        raise CelError(f"values that are nested more than {MAX_DATA_NESTING} deep are not compared", at)
    if len(left) != len(right):
        return False
    if one is list:
        pairs = zip(left, right, strict=True)
        return all(_same(costs, mine, yours, depth=depth + 1, at=at) for mine, yours in pairs)
    return all(key in right and _same(costs, value, right[key], depth=depth + 1, at=at) for key, value in left.items())


def _ordered(costs: Costs, node: Call, left: Value, right: Value) -> bool:
    if type(left) is str and type(right) is str:
        costs.read(min(len(left), len(right)))
    order = compare(left, right)
    if order is None:
        raise _mismatch(node, left, right)
    return order in _HOLDS[node.function]


def _within(costs: Costs, node: Call, left: Value, right: Value) -> bool:
    if type(right) is list:
        return any(_same(costs, left, item, depth=0, at=node.at) for item in right)
    if type(right) is not dict:
        raise _mismatch(node, left, right)
    key = key_of(left)
    if key is None:
        raise CelError(f"{kind_of(left)} is not a key of a map", node.at)
    return key in right


def _calculated(costs: Costs, node: Call, left: Value, right: Value) -> Value:
    kind, sign = type(left), node.function
    if kind is type(right):
        if kind is int:
            return _in_range(_ARITHMETIC[sign](left, right), node)
        if kind is float:
            return _ARITHMETIC[sign](left, right)
        if sign == "+" and (kind is str or kind is list):
            costs.make(len(left) + len(right))
            return left + right
    raise _mismatch(node, left, right)


def _divided(_costs: Costs, node: Call, left: Value, right: Value) -> Value:
    if type(left) is int and type(right) is int:
        if not right:
            raise CelError("division by zero", node.at)
        quotient = abs(left) // abs(right) * (1 if (left < 0) is (right < 0) else -1)
        _in_range(quotient, node)
        return quotient if node.function == "/" else left - quotient * right
    if node.function == "%" or type(left) is not float or type(right) is not float:
        raise _mismatch(node, left, right)
    if right:
        return left / right
    return math.nan if not left or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1.0, right)


def _negative(_costs: Costs, node: Call, value: Value) -> Value:
    if type(value) is float:
        return -value
    if type(value) is not int:
        raise CelError(f"- takes a number, not {kind_of(value)}", node.at)
    return _in_range(-value, node)


def _negated(_costs: Costs, node: Call, value: Value) -> bool:
    if type(value) is not bool:
        raise CelError(f"! takes true or false, not {kind_of(value)}", node.at)
    return not value


def _in_range(number: int, node: Call) -> int:
    if not is_in_range(number):
        raise CelError("the result has more than 64 bits", node.at)
    return number


def _size(_costs: Costs, node: Call, value: Value) -> int:
    if type(value) in (str, list, dict):
        return len(value)
    raise CelError(f"{kind_of(value)} has no size", node.at)


def _int_of(_costs: Costs, node: Call, value: Value) -> int:
    return _converted(to_int(value), value, node)


def _double_of(_costs: Costs, node: Call, value: Value) -> float:
    return _converted(to_double(value), value, node)


def _bool_of(_costs: Costs, node: Call, value: Value) -> bool:
    return _converted(to_bool(value), value, node)


def _string_of(costs: Costs, node: Call, value: Value) -> str:
    text = to_text(value)
    if text is None:
        raise CelError(f"{node.function}() does not take {kind_of(value)}", node.at)
    if type(value) is not str:
        costs.make(len(text))
    return text


def _itself(_costs: Costs, _node: Call, value: Value) -> Value:
    return value


def _searched(costs: Costs, node: Call, text: Value, part: Value) -> bool:
    if type(text) is not str or type(part) is not str:
        raise _mismatch(node, text, part)
    costs.read(len(text))
    match node.function:
        case "startsWith":
            return text.startswith(part)
        case "endsWith":
            return text.endswith(part)
    return part in text


def _matches(costs: Costs, node: Call, text: Value, pattern: Value) -> bool:
    if type(text) is not str or type(pattern) is not str:
        raise _mismatch(node, text, pattern)
    if len(pattern) > MAX_PATTERN:
        raise CelError(f"the pattern has {len(pattern):,} characters; {MAX_PATTERN:,} at most", node.at)
    costs.compile(pattern)
    costs.spend(len(text) // 2)
    try:
        return matcher(pattern)(text)
    except ValueError as error:
        raise CelError(f"{pattern[:80]!r} is not a pattern: {error}", node.at) from error


def _mismatch(node: Call, left: Value, right: Value) -> CelError:
    hint = ""
    if (
        {type(left), type(right)} <= {int, float, str}
        and str in (type(left), type(right))
        and node.function in "<=>=+-*/%"
    ):
        hint = "; int(…) and double(…) make numbers of strings"
    elif {type(left), type(right)} == {int, float}:
        hint = "; double(…) or int(…) makes them the same"
    return CelError(f"{node.function} does not take {kind_of(left)} and {kind_of(right)}{hint}", node.at)


def _converted(found: _T | str, value: Value, node: Call) -> _T:
    if isinstance(found, str):
        raise CelError(found or f"{node.function}() does not take {kind_of(value)}", node.at)
    return found


CALLS: dict[str, Callable[..., Value]] = {
    "==": _equal,
    "!=": _unequal,
    **dict.fromkeys(_HOLDS, _ordered),
    "in": _within,
    **dict.fromkeys(_ARITHMETIC, _calculated),
    "/": _divided,
    "%": _divided,
    "-_": _negative,
    "!_": _negated,
    "size": _size,
    "int": _int_of,
    "double": _double_of,
    "bool": _bool_of,
    "string": _string_of,
    "dyn": _itself,
    **dict.fromkeys(("startsWith", "endsWith", "contains"), _searched),
    "matches": _matches,
}
