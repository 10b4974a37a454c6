"""What values are, how they compare, and how one becomes another."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cis.model.cel.nodes import Value

_INT = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*")
_DOUBLE = re.compile(
    r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf|infinity|nan)[ \t\n\v\f\r]*",
    re.IGNORECASE,
)
_BOOL = {text: word == "true" for word in ("true", "false") for text in (word, word.title(), word.upper(), word[0])} | {
    "1": True,
    "0": False,
}
_MOST_DIGITS = 400
NO_KEY = object()  # what no map can hold


def kind_of(value: Value) -> str:
    """Return what a value is, by the name that CEL has for its type."""
    return _KINDS.get(type(value), "null")


_KINDS = {bool: "a bool", int: "an int", float: "a double", str: "a string", list: "a list", dict: "a map"}


def key_of(value: Value) -> Value:
    """Return what stands for a key in a map's dict: ``true`` is not 1, and 1.0 is. NO_KEY: no map has it; None: no key can be."""
    kind = type(value)
    if kind is str or kind is int:
        return value
    if kind is bool:
        return (value,)
    if kind is float:
        return int(value) if value.is_integer() else NO_KEY
    return None


def keys(mapping: dict[Value, Value]) -> Iterable[Value]:
    """Return the keys of a map, as values."""
    return (key[0] if type(key) is tuple else key for key in mapping)


def is_in_range(number: int) -> bool:
    """Whether a whole number has 64 bits."""
    return -(2**63) <= number < 2**63


def compare(left: Value, right: Value) -> int | None:
    """Return -1, 0 or 1 as *left* is less, equal or greater; 2: neither (NaN); None: the two have no order."""
    one, other = type(left), type(right)
    if one is not other:
        if not ((one is int or one is float) and (other is int or other is float)):
            return None
        left, right = float(left), float(right)
    elif one is not int and one is not str and one is not float and one is not bool:
        return None
    return -1 if left < right else 1 if left > right else 0 if left == right else 2


def to_int(value: Value) -> int | str:
    """Return a value as a whole number, or why it is none."""
    kind = type(value)
    if kind is int:
        return int(value)
    if kind is bool:
        return int(value)
    if kind is float:
        return int(value) if -(2.0**63) < value < 2.0**63 else f"{value:g} has more than 64 bits"
    if kind is str:
        if len(value) > _MOST_DIGITS or not _INT.fullmatch(value):
            return f"{value[:60]!r} is not a whole number"
        return int(value) if is_in_range(int(value)) else f"{value[:60]!r} has more than 64 bits"
    return ""


def to_double(value: Value) -> float | str:
    """Return a value as a number with a fraction, or why it is none."""
    kind = type(value)
    if kind is float or kind is int:
        return float(value)
    if kind is str:
        return (
            float(value)
            if len(value) <= _MOST_DIGITS and _DOUBLE.fullmatch(value)
            else f"{value[:60]!r} is not a number"
        )
    return ""


def to_bool(value: Value) -> bool | str:
    """Return a value as true or false, or why it is neither."""
    if type(value) is bool:
        return value
    if type(value) is str:
        return _BOOL.get(value, f"{value[:60]!r} is neither true nor false")
    return ""


def to_text(value: Value) -> str | None:
    """Return a value as a string; None: it has no such form."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    return _double_text(value) if kind is float else None


def _double_text(value: float) -> str:
    """Return the shortest digits that are *value*, with an exponent from a million on, and below a ten-thousandth."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is not itself
        return "nan" if value != value else "inf" if value > 0 else "-inf"  # noqa: PLR0124
    sign, digits, exponent = _digits(value)
    if -4 <= exponent < 6:
        text = f"{abs(value):.{max(0, len(digits) - 1 - exponent)}f}"
        return sign + text
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _digits(value: float) -> tuple[str, str, int]:
    """Return the sign, the shortest digits, and the exponent of the first of them."""
    text = repr(value)
    sign = "-" if text.startswith("-") else ""
    mantissa, _, power = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) + (len(whole) - 1 if whole != "0" else -1 - (len(fraction) - len(fraction.lstrip("0"))))
    return sign, digits.rstrip("0") or "0", exponent if digits else 0
