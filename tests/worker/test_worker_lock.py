"""Locks: who looks at one does not keep its owner from taking it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cis.errors import AlreadyRunningError
from cis.worker.lock import acquire, holder


def test_a_lock_is_taken_while_others_look_at_it_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    acquire(path, what="x").release()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder(path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            acquire(path, what="x").release()
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_lock_that_is_held_is_refused_with_the_holder_named(tmp_path: Path) -> None:
    lock = acquire(tmp_path / "x.lock", what="worker-x")
    with pytest.raises(AlreadyRunningError, match=r"worker-x already runs.*process \d+"):
        acquire(tmp_path / "x.lock", what="worker-x")
    assert holder(tmp_path / "x.lock") is not None
    lock.release()
    assert holder(tmp_path / "x.lock") is None
