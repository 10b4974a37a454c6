"""What a task leaves at ``CIS_OUTPUT`` is taken without waiting and without going elsewhere, and does not stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.engine.outputs import standard_output, take_outputs
from cis.errors import LaunchError


def test_outputs_are_taken_and_their_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "0.1.outputs"
    path.write_text("token=s3cret\n")

    assert take_outputs(str(path)) == {"token": "s3cret"}
    assert not path.exists()
    assert take_outputs(str(path)) == {}


def test_outputs_that_are_refused_do_not_stay_either(tmp_path: Path) -> None:
    path = tmp_path / "0.1.outputs"
    path.write_text("no value\n")

    with pytest.raises(LaunchError, match="line 1 is not name=value"):
        take_outputs(str(path))
    assert not path.exists()


@pytest.mark.timeout(20)
def test_a_fifo_that_nobody_writes_to_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(LaunchError, match="not a file any more"):
        take_outputs(str(tmp_path / "pipe"))
    assert not (tmp_path / "pipe").exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="not a file any more"):
        take_outputs(str(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("a=b\n")
    (tmp_path / "link").symlink_to(victim)

    with pytest.raises(LaunchError, match="cannot be read"):
        take_outputs(str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink()
    assert victim.read_text() == "a=b\n"


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("a=1\n\nb=x=y\na=2\r\n", {"a": "2", "b": "x=y"}),
        ("t<<END\none\n two=2\n\nEND\nb=1\n", {"t": "one\n two=2\n", "b": "1"}),
        ("t<<E\nE\n", {"t": ""}),
        ("a=x<<y\n", {"a": "x<<y"}),
        (' {"n": 4, "list": [{"k": null}], "yes": true}\n', {"n": 4, "list": [{"k": None}], "yes": True}),
        ("{}", {}),
    ],
)
def test_outputs_are_lines_blocks_of_lines_or_one_json_object(
    tmp_path: Path, written: str, taken: dict[str, object]
) -> None:
    (tmp_path / "outputs").write_text(written)

    assert take_outputs(str(tmp_path / "outputs")) == taken


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("a=1\nt<<END\none\n", "line 2: t<<END is not followed by a line 'END'"),
        ("t<<\none\n", "line 1: t<< is not followed by a line"),
        ("1t<<END\nEND\n", "line 1: '1t' is not a name of an output"),
        ('{"a": 1', "begins like a JSON object, and is not one"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": 1, "a": 2}', "the name 'a' stands twice"),
        ('{"a b": 1}', "'a b' is not a name of an output"),
        ('{"a": "\\u0000"}', "the value of a holds a NUL character"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "the value of a is nested more than 64 deep"),
        ('{"a": ' + "[" * 100_000, "nested too deep"),
        ('{"a": 99999999999999999999}', "beyond 64 bits"),
    ],
)
def test_what_is_none_of_these_is_refused_with_its_place(tmp_path: Path, written: str, why: str) -> None:
    (tmp_path / "outputs").write_text(written)

    with pytest.raises(LaunchError) as refused:
        take_outputs(str(tmp_path / "outputs"))
    assert why in str(refused.value)


def test_standard_output_is_an_output_without_what_surrounds_it_however_long_it_is(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n" + "x" * 20_000 + "\n\n")
    short = standard_output(str(tmp_path / "none"), tail="\n 1.2.3 \n", size=9)
    long = standard_output(str(tmp_path / "log"), tail="x" * 8192, size=20_003)

    assert (short, long) == ("1.2.3", "x" * 20_000)


@pytest.mark.parametrize(("size", "why"), [((1 << 20) + 1, "1 MiB at most"), (30_000, "does not hold all")])
def test_standard_output_that_is_too_long_or_not_kept_whole_is_no_output(tmp_path: Path, size: int, why: str) -> None:
    (tmp_path / "log").write_text("x" * 20_000)

    with pytest.raises(LaunchError, match=why):
        standard_output(str(tmp_path / "log"), tail="x" * 8192, size=size)
