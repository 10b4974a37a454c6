"""Asks the registry for known faults of what this project installs: ``python -m tests.project.dependencies``, part of ``make check``.

A fault ends it with status 1. Where the registry cannot be asked, or knows nothing of faults, it says so and goes on: a
check that needs a network must not stop who has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "requirements" / "runtime.txt"
WITHIN_S = 20.0


def main() -> int:
    """Audit what is locked for users; print one line, or a line for each fault."""
    try:
        known = _asked()
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"dependencies: NOT AUDITED, the registry could not be asked ({error})", file=sys.stderr)
        return 0
    faults = [(one["name"], one["version"], fault) for one in known for fault in one.get("vulns", ())]
    for name, version, fault in faults:
        mended = ", ".join(fault.get("fix_versions", ())) or "no version yet"
        print(f"dependencies: {name} {version} has {fault['id']}, mended in {mended}", file=sys.stderr)
    audited = sum("skip_reason" not in one for one in known)
    if audited < len(known):
        print(f"dependencies: {len(known) - audited} of {len(known)} NOT AUDITED, the registry knows no faults of them")
    else:
        print(f"dependencies: {audited} audited, {len(faults)} faults")
    return 1 if faults else 0


def _asked() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or ["no answer"]
        raise ValueError(lines[-1][:200])
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return found


if __name__ == "__main__":
    sys.exit(main())
