"""A JSON list that is printed value by value is the one that is printed whole."""

from __future__ import annotations

from typing import Any

import pytest

from cis.cli.output import print_json, print_json_list


@pytest.mark.parametrize("values", [[], [1], [{"a": "two\nlines", "b": [1, {}]}, "ä\u2028", None]])
def test_a_list_that_is_printed_value_by_value_is_the_one_that_is_printed_whole(
    values: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_json(values)
    whole = capsys.readouterr().out

    print_json_list(iter(values))

    assert capsys.readouterr().out == whole
