"""Tables that fit: nothing wider than the terminal, nothing shortened that fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cis.cli.table import Forms, columns_of, table_lines

CELL = st.text(alphabet="abc 日é", max_size=60)
ROWS = st.lists(st.tuples(CELL, CELL, CELL, CELL), min_size=1, max_size=5)


@given(rows=ROWS, width=st.integers(40, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, ...]], width: int) -> None:
    lines = table_lines(("a", "b", "c", "note"), rows, width=width)

    assert max(columns_of(line) for line in lines) <= width


@given(rows=ROWS)
def test_without_a_terminal_everything_is_whole(rows: list[tuple[str, ...]]) -> None:
    lines = table_lines(("a", "b", "c", "note"), rows, width=None)

    assert len(lines) == len(rows) + 1
    assert all((row[3] or "-").rstrip() in line for row, line in zip(rows, lines[1:], strict=True))


def test_a_value_with_two_forms_is_short_only_where_the_long_one_has_no_room_and_never_cut() -> None:
    rows = [(Forms("0123456789" * 3, "0123456789"), "word " * 8)]

    assert table_lines(("id", "note"), rows, width=80)[1].startswith("0123456789" * 3)
    assert table_lines(("id", "note"), rows, width=40)[1:] == [
        "0123456789  word word word word word",
        " " * 12 + "word word word",
    ]
    assert table_lines(("id", "note"), rows, width=40, wrap=False)[1:] == ["0123456789  word word word word word wo…"]


def test_columns_that_say_nothing_are_left_out_before_others_are_cut() -> None:
    lines = table_lines(("name", "nothing", "other"), [("n" * 30, None, "o" * 30)], width=64)

    assert lines == ["NAME" + " " * 28 + "OTHER", "n" * 30 + "  " + "o" * 30]


def test_a_message_of_several_lines_is_shown_in_one() -> None:
    lines = table_lines(("note",), [("2 faults\n  first\n  second\x1b",)], width=None)

    assert lines[1] == "2 faults first second\\x1b"
