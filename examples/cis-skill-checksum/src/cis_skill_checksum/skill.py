"""The skill: what its parameters may be, and the process that they become."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cis.engine.ports import Command
from cis.errors import LaunchError

DEFAULT_ALGORITHM = "sha256"
_KNOWN = ("path", "algorithm", "expect")
_SCRIPT = str(Path(__file__).with_name("task.py"))


class ChecksumSkill:
    """Computes the checksum of a file and, if asked, compares it."""

    name = "checksum"
    description = "Computes the checksum of a file, or checks it."
    triggers: tuple[str, ...] = ("task",)
    literal_params: frozenset[str] = frozenset()

    def check(self, params: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return each fault of *params*, as the parameter's name and a sentence about it.

        This is asked when a document is handed in, with references such as ``${tasks.pack.outputs.file}`` still in
        the strings, and again when the task starts, with the outputs in their place.
        """
        faults = [
            (name, f"is not a parameter of this skill; known: {', '.join(_KNOWN)}")
            for name in params
            if name not in _KNOWN
        ]
        if not isinstance(params.get("path"), str) or not params["path"]:
            faults.append(("path", "is missing; write which file"))
        algorithm = params.get("algorithm", DEFAULT_ALGORITHM)
        if "${tasks." not in str(algorithm) and algorithm not in hashlib.algorithms_guaranteed:
            faults.append(("algorithm", f"is not one of {', '.join(sorted(hashlib.algorithms_guaranteed))}"))
        if not isinstance(params.get("expect", ""), str):
            faults.append(("expect", "is a checksum in hexadecimal, in quotes"))
        return faults

    def plan(self, params: Mapping[str, Any]) -> Command:
        """Return the process; time limits, logs, retries and recovery are CIS-DAG's part."""
        faults = self.check(params)
        if faults:
            raise LaunchError("; ".join(f"params.{name} {text}" for name, text in faults))
        algorithm = params.get("algorithm", DEFAULT_ALGORITHM)
        return Command(argv=(sys.executable, _SCRIPT, algorithm, params["path"], params.get("expect", "")))
