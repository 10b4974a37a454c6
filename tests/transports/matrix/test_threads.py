"""What a thread of the room is told of a run."""

from __future__ import annotations

from cis.transports.matrix.threads import BEGINNING_CHARS, MAX_CHARS, shortened


def test_a_long_answer_keeps_what_it_is_about_and_the_reason_at_its_end() -> None:
    text = f"build: exit status 2\n{'x' * MAX_CHARS}\nmake: *** no rule to make target 'all'"

    told = shortened(text)

    assert told.startswith("build: exit status 2\n")
    assert told.endswith("make: *** no rule to make target 'all'")
    assert f"… {len(text) - MAX_CHARS} characters are left out …" in told
    assert told.count("x") < MAX_CHARS


def test_an_answer_that_fits_is_told_whole() -> None:
    for size in (0, BEGINNING_CHARS + 1, MAX_CHARS):
        assert shortened("y" * size) == "y" * size
