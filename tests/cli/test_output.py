"""What is printed: tables that align, colours only where they are wanted, JSON that anyone can read."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stdout

import pytest

from cis.cli import output
from cis.cli.context import say, silence_if_broken
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
    output.print_table(("dag_id", "exit"), [("a", 0), ("long-name", None), ("b", "")])

    assert capsys.readouterr().out == "DAG_ID     EXIT\na          0\nlong-name  -\nb          -\n"


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("one", "two"), [])

    assert capsys.readouterr().out == "ONE  TWO\n"


def test_states_have_colours_on_a_terminal_and_stay_aligned() -> None:
    with redirect_stdout(Terminal()) as terminal:
        output.print_table(("status", "x"), [("failed", 1), ("completed", 2)])

    assert terminal.getvalue().splitlines()[1:] == ["\x1b[31mfailed   \x1b[0m  1", "\x1b[32mcompleted\x1b[0m  2"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_there_are_no_colours_where_they_are_not_wanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as terminal:
        output.print_table(("status",), [("failed",)])

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


def test_what_nobody_reads_any_more_is_thrown_away_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for _ in range(3):
            say("to nobody")
        silence_if_broken(stream)
        stream.write("more")
