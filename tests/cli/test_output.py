"""What is printed: tables that align, colours only where they are wanted, JSON that anyone can read."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

import pytest

from cis.cli import output
from cis.cli.context import say, show
from cis.cli.table import print_table
from cis.engine.observe.logtext import stamp
from cis.model.ids import counted


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_columns_are_as_wide_as_their_widest_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("dag_id", "exit"), [("a", 0), ("long-name", None), ("b", "")])

    assert capsys.readouterr().out == "DAG_ID     EXIT\na          0\nlong-name  -\nb          -\n"


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("one", "two"), [])

    assert capsys.readouterr().out == "ONE  TWO\n"


def test_states_have_colours_on_a_terminal_and_stay_aligned() -> None:
    with redirect_stdout(Terminal()) as terminal:
        print_table(("status", "x"), [("failed", 1), ("completed", 2)])

    assert terminal.getvalue().splitlines()[1:] == ["\x1b[31mfailed   \x1b[0m  1", "\x1b[32mcompleted\x1b[0m  2"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_there_are_no_colours_where_they_are_not_wanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as terminal:
        print_table(("status",), [("failed",)])

    assert terminal.getvalue() == "STATUS\nfailed\n"


def test_no_color_is_no_reason_not_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with redirect_stdout(Terminal()):
        assert output.on_terminal()
        assert not output.in_colour()


def test_json_is_one_document_with_letters_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": "Grüße"})
    printed = capsys.readouterr().out

    assert json.loads(printed) == {"name": "Grüße"}
    assert "Grüße" in printed


def test_times_and_counts_are_for_people() -> None:
    assert output.took("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.500000Z") == "1.5s"
    assert output.took("2026-01-02T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z") == "0ms"  # the clock was set back
    assert output.took("2026-01-01T00:00:00.000000Z", None) == output.local_time(None) == "-"
    assert [counted(number, "task") for number in (0, 1, 2, 12_345)] == [
        "0 tasks",
        "1 task",
        "2 tasks",
        "12,345 tasks",
    ]
    assert output.scope_text({"type": "project", "id": "p"}) == "project:p"
    assert output.scope_text({"type": "global", "id": None}) == "global"


def test_a_zone_that_no_clock_can_have_shows_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "UTC+25")
        time.tzset()
        shown = output.local_time("2026-01-01T12:00:00.000000Z"), output.short_time("2026-01-01T12:00:00.000000Z")
        stamped = stamp(1_767_268_800_000_000)
    time.tzset()

    assert shown == ("2026-01-01 12:00:00", "01-01 12:00")
    assert stamped == "2026-01-01T12:00:00.000Z"


def test_what_cannot_be_shown_is_thrown_away_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        for _ in range(3):
            show(full, "to a full disk")
        full.write("more")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for _ in range(3):
            say("to nobody")
        stream.write("more")

    assert capfd.readouterr().err.count("No space left on device") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_characters_that_a_stream_has_not_are_shown_as_numbers(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "shown"
    with path.open("w", encoding=encoding) as stream:
        show(stream, "a \u2192 \udce9\n")

    assert path.read_text(encoding=encoding) == ("a \u2192 " if encoding == "utf-8" else "a \\u2192 ") + "\\udce9\n"


def shown_and_closed(stream: TextIO, text: str) -> None:
    show(stream, text)
    stream.close()


def test_a_pipe_that_is_full_for_now_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 1_000_000
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as read:
        thread = threading.Thread(target=shown_and_closed, args=(stream, text))
        thread.start()
        found = read.read()
        thread.join()

    assert found == text
