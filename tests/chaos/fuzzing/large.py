"""One large document: ``python -m tests.chaos.fuzzing.large SEED BYTES``; it is read under a bound of memory and of time.

A part of a small one stands there again and again, so what is more than linear shows.
"""

from __future__ import annotations

import resource
import sys
import time

from tests.chaos.fuzzing import documents
from tests.chaos.fuzzing.trees import seeded

MEMORY = 4 << 30  # of addresses; 16 MiB of the smallest values take 2 GiB
SECONDS_A_MIB = 6.0


def main(seed: int, count: int) -> None:
    """Read one document, or fail."""
    chance = seeded(seed)
    text, notation = documents.document(chance)
    start = chance.randint(0, len(text))
    end = min(len(text), start + chance.choice((1, 2, 7, 30, 200)))
    part = text[start:end] or b"a"
    data = text[:start] + part * (count // len(part)) + text[end:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    began_s = time.monotonic()
    documents.check(data, chance.choice((notation, None)))
    took_s = time.monotonic() - began_s
    if took_s > max(10.0, SECONDS_A_MIB * count / 2**20):
        raise AssertionError(f"{took_s:.1f} s for {len(data)} bytes that begin with {data[:80]!r}, again {part!r}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
