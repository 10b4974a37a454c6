"""Fuzzing led by coverage: ``python -m tests.chaos.fuzzing.guided TARGET CORPUS [libFuzzer's options]``.

Needs atheris, and ends the process itself. A target takes bytes; whatever it raises is a fault of the program.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # has no types, and is not for all

with atheris.instrument_imports(include=["cis"]):
    from cis.model.formats import Format
    from cis.store import open_store
    from tests.chaos.fuzzing import documents, household, messages
    from tests.chaos.fuzzing.trees import seeded

NOTATIONS = (None, *Format)
FRESH_EVERY = 300


def document_bytes(data: bytes) -> None:
    """Take bytes for a document; the first says in which notation."""
    if data:
        documents.check(data[1:], NOTATIONS[data[0] % len(NOTATIONS)])


class MessageBytes:
    """Takes bytes for a message: its content, which is signed here, and its blob. The node is made anew now and then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "fresh").mkdir()
        self._house = household.furnish(folder / "fresh")
        self._count = 0
        self._target: messages.Target | None = None

    def __call__(self, data: bytes) -> None:
        if self._target is None or self._count % FRESH_EVERY == 0:
            self._target = self._renewed()
        self._count += 1
        line, _, blob = data.partition(b"\n")
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            self._target.push(data)
            return
        self._target.push(messages.body_of(messages.sign(messages.on_time(content)), blob))

    def _renewed(self) -> messages.Target:
        if self._target is not None:
            self._target.close()
        used = self._folder / "used"
        shutil.rmtree(used, ignore_errors=True)
        shutil.copytree(self._folder / "fresh", used)
        store = open_store(used / "cis.db")
        store._db.connection.execute("PRAGMA synchronous = OFF")
        return messages.Target(store, used, self._house)


def sow(name: str, corpus: Path, *, seed: int, count: int = 300) -> None:
    """Fill the folder of a corpus with what chance makes."""
    house = household.Household(innocent=("id-000001", "id-000004"), victim="id-000002", sent="id-000006", offered="x")
    for number in range(count):
        chance = seeded(seed + number)
        if name == "documents":
            text, notation = documents.document(chance)
            data = bytes([NOTATIONS.index(notation)]) + text
        else:
            content, blob, _ = messages.envelope(house, chance, number=number)
            data = messages.body_of(content, blob)
        (corpus / f"seed-{number:04}").write_bytes(data)


def main(arguments: list[str]) -> None:
    """Fuzz one target until libFuzzer's options say that it is enough."""
    name, corpus, *options = arguments
    logging.disable(logging.CRITICAL)
    given = next(int(option.partition("=")[2]) for option in options if option.startswith("-seed="))
    sow(name, Path(corpus), seed=given)
    folder = Path(tempfile.mkdtemp(dir=Path(corpus).parent))
    target = document_bytes if name == "documents" else MessageBytes(folder)
    atheris.Setup([sys.argv[0], corpus, *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
