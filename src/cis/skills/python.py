"""The python skill: calls a function in a process of its own. The process is ``cis.skills.python_call``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cis.engine.ports import Command
from cis.skills.shell import Faults, Rule, broken_rules, is_open, is_text, refuse, unknown_params

if TYPE_CHECKING:
    from cis.model.dag import Json

_SCRIPT = str(Path(__file__).with_name("python_call.py"))
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class PythonSkill:
    """Calls a Python function with JSON arguments.

    A mapping of names to single-line scalars that it returns becomes the task's outputs; any other JSON value
    becomes the output ``result``. The task's directory is on the module path.
    """

    name = "python"
    description = "Calls a Python function; what it returns becomes outputs."
    triggers: tuple[str, ...] = ("task",)
    literal_params: frozenset[str] = frozenset()

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*: ``callable``, or ``module`` and ``function``, name what is called."""
        faults = [*unknown_params(params, known=tuple(_RULES)), *broken_rules(params, _RULES)]
        if "callable" in params:
            faults += [(name, "repeats callable; leave it out") for name in ("module", "function") if name in params]
        elif "module" not in params and "function" not in params:
            faults.append(("callable", "is missing; write package.module:function"))
        else:
            faults += [(name, "is missing") for name in ("module", "function") if name not in params]
        return faults

    def plan(self, params: Mapping[str, Json]) -> Command:
        """Return the call as a process; the arguments go in through standard input."""
        refuse(self.check(params))
        if "callable" in params:
            module, _, function = params["callable"].partition(":")
        else:
            module, function = params.get("module"), params.get("function")
        call = {
            "module": module,
            "function": function,
            "args": params.get("args", []),
            "kwargs": params.get("kwargs", {}),
        }
        return Command(argv=(params.get("python", sys.executable), _SCRIPT), stdin=json.dumps(call).encode())


def _is_callable(value: Json) -> bool:
    if not isinstance(value, str):
        return False
    module, colon, function = value.partition(":")
    return bool(colon) and _is_dotted(module) and _is_dotted(function)


def _is_dotted(value: Json) -> bool:
    return isinstance(value, str) and _DOTTED.fullmatch(value) is not None


def _is_kwargs(value: Json) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


_RULES: dict[str, tuple[Rule, str]] = {
    "callable": (_is_callable, "must be package.module:function"),
    "module": (_is_dotted, "must be the dotted name of a module"),
    "function": (_is_dotted, "must be the name of a function in the module"),
    "args": (lambda value: isinstance(value, list), "must be a list"),
    "kwargs": (_is_kwargs, "must be a mapping of names to values"),
    "python": (lambda value: is_open(value) or is_text(value), "must be the path of a Python interpreter"),
}
