"""How logs are read: each block under the name of its task, lines that stay whole, times that belong to them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cis.engine.observe.logtext import LogPiece, LogStream, LogText, heading, stamp

OUT, ERR = LogStream.OUTPUT, LogStream.ERROR


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have this machine be in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(text: LogText, *pieces: LogPiece) -> str:
    return "".join(text.text(piece) for piece in pieces)


def test_a_block_has_a_heading_when_the_task_or_the_attempt_is_another_and_begins_on_a_line_of_its_own() -> None:
    text = shown(
        LogText(alone=None),
        LogPiece("a", 1, OUT, "one\ntw"),
        LogPiece("a", 1, ERR, "o\n"),
        LogPiece("b", 1, OUT, "half"),
        LogPiece("a", 2, OUT, "again\n", several=True),
        LogPiece("c", 0, LogStream.NOTE, "skipped\n"),
    )

    assert text == ("==> a <==\none\ntwo\n==> b <==\nhalf\n==> a, attempt 2 <==\nagain\n==> c <==\nskipped\n")


def test_the_first_block_of_the_only_task_has_no_heading_unless_it_has_several_attempts() -> None:
    first, second = LogPiece("a", 1, OUT, "1\n"), LogPiece("a", 2, OUT, "2\n", several=True)
    known = LogPiece("a", 1, OUT, "1\n", several=True)

    assert shown(LogText(alone="a"), first, second) == "1\n==> a, attempt 2 <==\n2\n"
    assert shown(LogText(alone="a"), known) == "==> a, attempt 1 <==\n1\n"
    assert shown(LogText(alone="a"), LogPiece("a/b", 1, OUT, "1\n")) == "==> a/b <==\n1\n"


def test_where_all_is_one_text_each_stream_has_its_heading() -> None:
    text = shown(LogText(alone=None, streams=True), LogPiece("a", 1, OUT, "1\n"), LogPiece("a", 1, ERR, "2\n"))

    assert text == "==> a, attempt 1, output <==\n1\n==> a, attempt 1, error <==\n2\n"
    assert heading("a", 0) == "==> a <=="


@pytest.mark.usefixtures("berlin")
def test_each_line_has_one_time_in_the_zone_of_this_machine_however_many_pieces_it_comes_in() -> None:
    early, late = 1_767_222_000_000_000, 1_767_222_000_500_000
    text = shown(
        LogText(alone="a", stamps=True),
        LogPiece("a", 1, OUT, "1\n2\nthr", early),
        LogPiece("a", 1, OUT, "ee\n", late),
        LogPiece("a", 1, OUT, "\n4", late),
    )

    at, later = stamp(early), stamp(late)
    assert (at, later) == ("2026-01-01T00:00:00.000+01:00", "2026-01-01T00:00:00.500+01:00")
    assert text == f"{at} 1\n{at} 2\n{at} three\n{later} \n{later} 4"
