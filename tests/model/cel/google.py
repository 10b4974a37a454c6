"""Google's runtime, asked in a process of its own: ``python -m tests.model.cel.google`` reads expressions, and prints what comes of each.

Release 0.1.3 gives up references to None that are not its own, so no process that is to go on may use it.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
WITHIN_S = 100
SYNTAX = "error: syntax"
DATA: dict[str, Any] = {
    "p": {
        "n": 4,
        "d": 2.5,
        "zero": 0,
        "big": 2**63 - 1,
        "text": "production",
        "num": "87",
        "odd": "aé𝄞",
        "empty": "",
        "yes": True,
        "none": None,
        "list": [3, 1, 2],
        "mixed": [1, "a", None, 2.0, [1], {"k": 1}],
        "names": ["x86", "arm"],
        "map": {"one": 1, "two": "zwei"},
        "lines": ["a.csv", "b.txt"],
    }
}
# What an error is about, in the words of each side; anything else is an operator or function that takes no such values.
ABOUT = {
    "zero": r"division by zero|(divide|modulus) by zero",
    "text": r"is not a whole number|is not a number|neither true nor false|' has more than 64|cannot convert|conversion error",
    "range": r"more than 64 bits|overflow|out of int64 range",
    "missing": r"there is no|[kK]ey not found|Index error: index",
    "twice": r"stands twice|duplicate key",
}


def plain(value: Any) -> str:
    """Return a value so that 1, 1.0 and true differ, and NaN is itself."""
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, dict):
        shown = sorted(
            f"{plain(key[0] if isinstance(key, tuple) else key)}: {plain(item)}" for key, item in value.items()
        )
        return f"{{{', '.join(shown)}}}"
    return (
        "NaN" if isinstance(value, float) and math.isnan(value) else repr(value).replace("-nan", "nan")
    )  # its sign is the machine's


def about(message: str) -> str:
    """Return what an error is about."""
    return f"error: {next((what for what, words in ABOUT.items() if re.search(words, message)), 'types')}"


def answers(texts: Sequence[str]) -> list[tuple[str, bool]]:
    """Return what comes of each expression there, and whether its checker takes it."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=WITHIN_S,
        check=True,
    )
    return [(value, taken) for value, taken in json.loads(done.stdout)]


def _answer(text: str, environment: Any) -> tuple[str, bool]:
    try:
        environment.compile(text)
        taken = True
    except RuntimeError:
        taken = False
    try:
        found = environment.compile(text, disable_check=True).eval(data=DATA)
    except RuntimeError as error:
        return SYNTAX if "Syntax error" in str(error) else about(str(error)), taken
    value = found.plain_value()
    return about(str(value)) if "ERROR" in str(found.type()) else plain(value), taken


def main() -> None:
    """Answer what standard input asks."""
    cel = import_module("cel_expr_python.cel")  # whoever asks does not load it

    held = [None] * 1_000_000
    environment = cel.NewEnv(variables={"p": cel.Type.DYN})
    json.dump([_answer(text, environment) for text in json.load(sys.stdin)], sys.stdout)
    sys.stdout.flush()
    os._exit(0 if held else 1)  # the end of an interpreter that lacks references to None is a crash


if __name__ == "__main__":
    main()
