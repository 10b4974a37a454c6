"""Who types a command, for the audit log, and waking whoever has something to do because of it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from cis.app.actor import Actor
from cis.worker.bell import ring

SOURCE = "cli"


def this_user() -> Actor:
    """Return the user of the operating system, by name where it has one; never what an environment variable claims."""
    uid = os.getuid()
    try:
        name = os.fsencode(pwd.getpwuid(uid).pw_name).decode(errors="backslashreplace")
    except KeyError:
        name = str(uid)
    return Actor(name=f"user:{name}", source=SOURCE)


def wake(run_dir: Path, workers: Iterable[str]) -> None:
    """Have the node of this home, and *workers* of it, look at what was stored."""
    for name in {"node", *workers}:
        ring(run_dir, name)
