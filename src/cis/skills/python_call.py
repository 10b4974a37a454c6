"""The process of the python skill: imports a module, calls a function, hands back what it returned.

Run by its path, with any Python from 3.8, which need not have CIS-DAG installed: standard library only.

    standard input   {"module": …, "function": …, "args": […], "kwargs": {…}}
    CIS_OUTPUT       the outputs: the names of a mapping of single-line scalars, or ``result``, one line of JSON
    exit status      0; 1 when the function raised (the traceback is on standard error) or gave no JSON
"""

from __future__ import annotations

import os
import sys

# Python put the directory of this file in front, where module names are those of skills. What the task's
# own directory holds is to be importable instead, as with ``python -m``.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [os.getcwd(), *(entry for entry in sys.path if os.path.realpath(entry) != _HERE)]

import importlib  # noqa: E402 - only now is the module path right
import json  # noqa: E402
import re  # noqa: E402
import traceback  # noqa: E402
from typing import Any  # noqa: E402

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def main() -> int:
    """Make the call that standard input describes; return the exit status."""
    call = json.load(sys.stdin.buffer)
    where = "{module}:{function}".format(**call)
    try:
        function: Any = importlib.import_module(call["module"])
        for name in call["function"].split("."):
            function = getattr(function, name)
        result = function(*call["args"], **call["kwargs"])
    except Exception as error:  # noqa: BLE001 - it is the task's own, whatever it is
        # The first frame is this file, and says nothing about what went wrong.
        own = error.__traceback__
        traceback.print_exception(type(error), error, own.tb_next if own is not None and own.tb_next else own)
        return 1
    try:
        lines = output_lines(result)
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"{where} returned what is not JSON: {error}\n")
        return 1
    path = os.environ.get("CIS_OUTPUT")
    if path:
        with open(path, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
    return 0


def output_lines(result: object) -> list[str]:
    """Return the lines for ``CIS_OUTPUT``: nothing for None.

    Raises:
        TypeError, ValueError: *result* is not a JSON value.
    """
    if result is None:
        return []
    if isinstance(result, dict) and result and all(_is_output(name, value) for name, value in result.items()):
        return [f"{name}={_text(value)}" for name, value in result.items()]
    return ["result=" + _text(result)]


def _is_output(name: object, value: object) -> bool:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return False
    if isinstance(value, str):
        return "\n" not in value and "\r" not in value
    return value is None or isinstance(value, (bool, int, float))


def _text(value: object) -> str:
    if isinstance(value, str) and "\n" not in value and "\r" not in value:
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


if __name__ == "__main__":
    sys.exit(main())
