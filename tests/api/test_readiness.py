"""``/ready`` finds out by doing: it writes, but not for everybody who asks; and it looks for damage."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from cis.errors import StoreReadOnlyError
from tests.worlds.serving import NodeUnderTest


def frames(node: NodeUnderTest) -> int:
    """Return how much was written to the log of the store."""
    return Path(f"{node.store.path}-wal").stat().st_size


def test_asking_often_does_not_write_often(node: NodeUnderTest) -> None:
    """Nobody needs a token for it, and each write waits for the disk."""
    assert node.call("GET", "/ready", token=None).status_code == 200
    before = frames(node)
    answers = [node.call("GET", "/ready", token=None).status_code for _ in range(30)]

    assert set(answers) == {200}
    assert frames(node) - before < 30 * 4096


def test_a_store_that_takes_no_writes_makes_a_node_unready(node: NodeUnderTest) -> None:
    # The whole group of writes fails if another is in it, and so does this one when it is then tried alone.
    with suppress(StoreReadOnlyError):
        node.writer.submit(lambda store: store._db.connection.pragma("query_only", 1)).result()  # type: ignore[attr-defined]
    answer = node.call("GET", "/ready", token=None)

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "cis.db cannot be written" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0


def test_a_search_for_damage_that_takes_too_long_is_given_up(
    node: NodeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cis.store.sqlite.file.SEARCH_LIMIT_S", -1.0)
    connection = apsw.Connection(str(node.store.path))
    connection.set_busy_timeout(10_000)  # the node writes, too
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)"
        " INSERT INTO events (at_us, kind, status) SELECT i, 'run', 'pending' FROM n"
    )
    connection.close()

    assert node.store.upkeep.faults(quick=True) == []
    assert node.store.events.last_seq() >= 20000
