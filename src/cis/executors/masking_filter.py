"""The process between a task that was given secrets and its two log files: shows them as ``***``.

    standard input    what to look for, a line each (``cis.model.secret_forms``), never in arguments or environment
    arguments         the descriptors of two pipes: what the task writes to its standard output and error
    standard output   the log file of the first
    standard error    the log file of the second

It ends when nobody can write into the pipes any more. Run by its path, without ``site`` and the packages that are
installed, so that it starts in some 15 ms.
"""

from __future__ import annotations

import os
import select
import sys

# At the end: nothing that lies beside this package may stand in for the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from cis.model.masking import Masker

PIECE_BYTES = 1 << 16
IDLE_MS = 200


def main() -> int:
    """Pass on what comes until both pipes are at their end; return the exit status."""
    needles = [line for line in sys.stdin.buffer.read().split(b"\n") if line]
    if not needles:
        return 1
    streams = {int(pipe): (Masker(needles), log) for pipe, log in zip(sys.argv[1:3], (1, 2), strict=True)}
    poll = select.poll()
    for pipe in streams:
        poll.register(pipe, select.POLLIN)
    while streams:
        restless = any(masker.restless for masker, _ in streams.values())
        ready = poll.poll(IDLE_MS if restless else None)
        if not ready:
            for masker, log in streams.values():
                _write(log, masker.idle())
        for pipe, _ in ready:
            masker, log = streams[pipe]
            data = os.read(pipe, PIECE_BYTES)
            _write(log, masker.feed(data) if data else masker.close())
            if not data:
                poll.unregister(pipe)
                del streams[pipe]
    return 0


def _write(log: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(log, view) :]
        except OSError:  # a full disk: the task must not suffer for its log
            return


if __name__ == "__main__":
    sys.exit(main())
