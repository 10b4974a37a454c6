"""Patterns of texts, found in a time that grows with the text alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_PATTERN = 1000


@lru_cache(maxsize=64)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a pattern is found in a text. Raises ValueError, which says what is wrong with it.

    The engine is that of Rust's ``regex``, which pydantic has: it never tracks back, and so knows no look-around and no
    back references.
    """
    from pydantic_core import SchemaError, SchemaValidator  # noqa: PLC0415 - few documents have one

    schema: Any = {"type": "str", "pattern": pattern, "regex_engine": "rust-regex", "strict": True}
    try:
        validator = SchemaValidator(schema)
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip().startswith("error:")]
        why = lines[-1].removeprefix("error:").strip() if lines else "it cannot be read"
        raise ValueError(f"{why} (the syntax is that of Rust's regex)") from None
    return lambda text: bool(validator.isinstance_python(text))
