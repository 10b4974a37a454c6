"""Other versions of this program: an earlier commit of this repository, and one with a schema that is yet to come."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cis.store.sqlite.migrate import NEWEST
from tests.worlds.harness import Sandbox

ROOT = Path(__file__).parents[2]
BEFORE_ADOPT = "392e225f8f6f3c6df72f9bebcb372a08dc91c933"  # the last commit before tasks could go on without a worker
BEFORE_SIDES = "8eb66bc05ed62db2f8853cf6dd888b95cb6d8df0"  # the last commit before what crosses was ordered by side
SCHEMA_6 = "1db560b310f1f886d6f7e1ec8fc85c58cc565f39"  # the last commit before homes kept what they are


def earlier_source(commit: str, folder: Path) -> Path:
    """Return the source of an earlier commit; without this repository's history, skip loudly, or fail in CI."""
    archive = folder / "earlier.tar"
    done = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--output", str(archive), commit, "src"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = f"commit {commit} is not there, so upgrades from it are NOT TESTED: clone all of the history ({done.stderr.strip()})"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    (folder / "earlier").mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder / "earlier")], check=True)
    return folder / "earlier" / "src"


def later_source(folder: Path) -> Path:
    """Return a copy of this source that knows one more migration."""
    source = folder / "later" / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    store = source / "cis" / "store"
    step = store / "migrations" / "sqlite" / f"{NEWEST + 1:04}_later.sql"
    step.write_text("ALTER TABLE dag_runs ADD COLUMN later TEXT NOT NULL DEFAULT 'x';\n")
    module = store / "sqlite" / "migrate.py"
    module.write_text(re.sub(r"^NEWEST = \d+", f"NEWEST = {NEWEST + 1}", module.read_text(), flags=re.MULTILINE))
    return source


def running(sandbox: Sandbox, source: Path) -> Sandbox:
    """Return the same home with the command of another version."""
    return Sandbox(sandbox.home, {**sandbox.env, "PYTHONPATH": str(source)})
