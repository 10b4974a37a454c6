"""What the pages tell to type is typed, word for word, in a new home, and does what they say.

Documents that a page shows lie in the folder under the names by which its commands call them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "howto"
DEFAULT_URL = "http://127.0.0.1:6767"


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and what has to be there before: which document is which file, other files, what is not typed, what fails."""

    path: str
    documents: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    fails: dict[str, int] = field(default_factory=dict)
    node: bool = False


PAGES = [
    Page(
        "README.md",
        documents={"proj-garden-morning": "morning.yaml"},
        left_out=("--target-node server",),  # a second machine: test_push.py
    ),
    Page(
        "docs/howto/parameters.md",
        documents={"greet": "greet.yaml"},
        files={"values.yaml": "name: Ada\n"},
        fails={"cis dag validate greet.yaml -p nmae": 2},
    ),
    Page(
        "docs/howto/outputs.md", documents={"plan": "plan.yaml", "release": "release.yaml"}, fails={"cis dag rerun": 4}
    ),
    Page(
        "docs/howto/many-from-one.md",
        documents={"count": "count.yaml", "builds": "builds.yaml"},
        files={"a.txt": "1\n", "b.txt": "1\n2\n", "c.txt": ""},
    ),
    Page(
        "docs/howto/conditions.md",
        documents={"nightly": "nightly.yaml"},
        fails={"cis dag run nightly.yaml -p where=production": 1},
    ),
    Page("docs/howto/retention.md"),
    Page(
        "docs/howto/run-from-http.md",
        files={"dag.yaml": "dag_id: proj-a-order\ntasks: [{id: t, command: echo hello}]\n"},
        left_out=("/api/v1/events",),  # it never ends: test_api_streams.py
        node=True,
    ),
]
NOT_TYPED = {
    "import-a-workflow.md": "wants a recorded workflow: test_corpora.py",
    "postgresql.md": "wants a server: test_postgres.py, and the tests that run over both stores",
    "room.md": "wants a homeserver: test_room.py",
    "run-as-a-service.md": "wants a service manager: test_service.py",
    "secrets.md": "shows documents and settings alone: test_secrets.py",
    "two-machines.md": "wants a second machine: test_push.py",
    "write-a-skill.md": "installs a package: test_examples.py",
}


def typed(text: str) -> list[str]:
    """Return the commands of a page: lines that are set in by four spaces, each with those that continue it."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    joined = re.sub(r"\\\n\s+", "", prose)
    return re.findall(r"^    ((?:cis|curl) .*)$", joined, re.MULTILINE)


def documents(text: str) -> dict[str, str]:
    """Return the documents of a page, by their ids."""
    shown = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {found[1]: one for one in shown if (found := re.search(r"^dag_id: (\S+)", one, re.MULTILINE))}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_what_a_page_tells_to_type_does_what_it_says(page: Page, sandbox: Sandbox, tmp_path: Path) -> None:
    text = (ROOT / page.path).read_text(encoding="utf-8")
    folder = tmp_path / "here"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "cis").write_text(f'#!/bin/sh\nexec {sys.executable} -m cis "$@"\n')
    (folder / "bin" / "cis").chmod(0o755)
    for dag_id, name in page.documents.items():
        (folder / name).write_text(documents(text)[dag_id])
    for name, content in page.files.items():
        (folder / name).write_text(content)
    environ = {**sandbox.env, "PATH": f"{folder / 'bin'}:{sandbox.env['PATH']}"}
    url, answers = DEFAULT_URL, []
    with ExitStack() as stack:
        for command in typed(text):
            if any(part in command for part in page.left_out):
                continue
            if command.startswith("cis node start") or (url == DEFAULT_URL and (page.node or "curl" in command)):
                node = stack.enter_context(sandbox.node())
                url, environ["TOKEN"] = node.url, node.token
                if command.startswith("cis node start"):
                    continue
            done = subprocess.run(
                ["sh", "-c", command.replace(DEFAULT_URL, url)],
                env=environ,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            expected = next((status for start, status in page.fails.items() if command.startswith(start)), 0)
            assert done.returncode == expected, f"{command}\n{done.stdout}\n{done.stderr}"
            assert '"status":4' not in done.stdout.replace(" ", ""), f"{command}\n{done.stdout}"
            answers.append(command)
            if found := re.search(r'"run_id": ?"([^"]+)"', done.stdout):
                environ["RUN_ID"] = found[1]

    assert answers


def test_each_how_to_is_typed_here_or_its_reason_is_told() -> None:
    here = {Path(page.path).name for page in PAGES if page.path.startswith("docs")}

    assert here | NOT_TYPED.keys() == {path.name for path in HOW_TO.glob("*.md")}
    assert not here & NOT_TYPED.keys()
