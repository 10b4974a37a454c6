"""The process: python task.py ALGORITHM FILE [EXPECTED]. Exit status 1 when the file is another one."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

SHAKE_BYTES = 32


def main() -> int:
    """Compute, tell, compare."""
    algorithm, name, expected = [*sys.argv[1:4], ""][:3]
    try:
        with Path(name).open("rb") as file:
            digest = hashlib.file_digest(file, algorithm)
    except OSError as error:
        print(f"{name} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    variable = algorithm.startswith("shake")
    checksum = digest.hexdigest(SHAKE_BYTES) if variable else digest.hexdigest()  # type: ignore[call-arg]
    with Path(os.environ["CIS_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"checksum={checksum}\nbytes={Path(name).stat().st_size}\n")
    print(f"{algorithm} {checksum} {name}")
    if expected and expected.lower() != checksum:
        print(f"{name} should have {expected.lower()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
