"""What an expression is, what is said of one that is none, and where an evaluation ends whatever the data."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.model.cel.costs import MAX_MADE, MAX_STEPS
from cis.model.cel.evaluator import evaluate
from cis.model.cel.faults import CelError, CelSyntaxError, CostError
from cis.model.cel.lexer import tokens
from cis.model.cel.nodes import And, Call, Or
from cis.model.cel.parser import MAX_NESTING, parse

DATA: dict[str, Any] = {
    "n": 4,
    "list": list(range(1000)),
    "text": "ab" * 100_000,
    "deep": {"a": {"b-c": [1, {"d": True}]}},
}


def value(text: str) -> Any:
    """Return the value of an expression over the data."""
    return evaluate(parse(text), DATA)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 * 3 - 4 / 2 % 3", 5),
        ("1 < 2 == true && !false || false", True),
        ("n > 3 ? 'much' : n > 1 ? 'some' : 'none'", "much"),
        ('deep.a["b-c"][1].d', True),
        ("[1, 2,] + [3,]", [1, 2, 3]),
        ("size({'a': 1, 'b': 2,})", 2),
        ("-n + --n - ---n", 4),
        ("!!(n == 4)", True),
        ('\'\\x41\\101\\u00e9\\U0001F600\\\\\' + r\'\\n\' + """a"b"""', 'AAé😀\\\\na"b'),
        ("n in [4] // a comment", True),
        ("-9223372036854775808", -(2**63)),
        ("list.filter(x, x % 2 == 0).map(x, x < 6, x * x)", [0, 4, 16]),
        ("[1, 2].map(x, [3].map(x, x) + [x])", [[3, 1], [3, 2]]),
        ("'9'.matches('^[0-9]+$') && '8x'.matches(r'\\d') && !matches('a', '^b')", True),
        ("{1: 'a', true: 'b'}[true]", "b"),
    ],
)
def test_an_expression_has_its_value(text: str, wanted: Any) -> None:
    assert value(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n = 4", "column 3: '=' is not an operator; \"==\" compares: n ^= 4"),
        ("n & 4", '"&&" is and'),
        ("n == 4 and true", "column 8: 'and' stands where an operator is to follow; \"&&\" says that in CEL"),
        ("not n", "'n' stands where an operator is to follow"),
        ("'open", "this string has no end on its line"),
        (r"'\q'", r"column 2: \q is not an escape; \\ is a backslash: '^\q'"),
        (r"'\ud800'", r"\ud800 is not a character"),
        ("12u", "'12u' is not a number; unsigned numbers are left out here"),
        ("b'a'", "bytes are left out here"),
        ("99999999999999999999", "has more than 64 bits"),
        ("siz(n)", "there is no function siz(); did you mean 'size'?"),
        ("n.startwith('a')", "there is no function .startwith(); did you mean 'startsWith'?"),
        ("startsWith(n, 'a')", "startsWith() is written behind what it is about, as x.startsWith(…)"),
        ("timestamp('x')", "timestamp() is left out here"),
        ("size(n, n)", "size() takes 1 argument"),
        ("n.size(1)", "size() takes 0 arguments"),
        ("n.all(x)", "all() takes 2 arguments: a name, and an expression with it"),
        ("n.all(x.y, true)", "the first argument of all() is a name for each item"),
        ("has(n)", "has() takes one argument, which ends with .name"),
        ("for", "'for' is a reserved word"),
        ("n.in", "'in' stands where a name is to follow"),
        ("-!n", "'!' stands where a value is to follow"),
        ("true ? n ? 1 : 2 : 3", "'?' stands where \":\" is to follow"),
        ("n ==\n  4 +\n  ", "line 3, column 3: the expression ends where a value is to follow"),
        ("(" * (MAX_NESTING + 1) + "n", f"nested more than {MAX_NESTING} deep"),
        ("n" + " + n" * MAX_NESTING, f"nested more than {MAX_NESTING} deep"),
        ("n" + ".a" * MAX_NESTING, f"nested more than {MAX_NESTING} deep"),
        ("", "column 1: the expression ends where a value is to follow"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place_and_the_mend(text: str, said: str) -> None:
    with pytest.raises(CelSyntaxError) as raised:
        parse(text)

    assert said in str(raised.value)


def test_long_chains_of_and_and_or_are_one_node_each_and_not_deep() -> None:
    either = parse(" || ".join(["n == 1"] * 300))
    both = parse(" && ".join(["n == 4"] * 300))

    assert isinstance(either, Or)
    assert isinstance(both, And)
    assert (len(either.args), len(both.args)) == (300, 300)
    assert (evaluate(either, DATA), evaluate(both, DATA)) == (False, True)


@pytest.mark.parametrize(
    "text",
    [
        "list.map(x, list.map(y, x + y)).size() > 0",
        "list.all(x, list.all(y, x + y >= 0))",
        "list.all(x, x in list) && list.all(x, list.all(y, true))",
        "list.map(x, text + text).size() > 0",
        "list.map(x, list + list).size() > 0",
        "list.all(x, text == text + '')",
        "list.all(x, text.matches('a' + string(x)) || true)",
        "list.all(x, 'a'.matches('a{1,99}' + string(x)) || true)",
        "list.all(x, text.contains('zz') || list.all(y, true))",
        "[[list, list], [list, list]].map(a, a.map(b, b.map(c, list.map(d, [d])))).size() > 0",
    ],
)
def test_what_costs_without_bound_ends_whatever_the_data_and_no_operator_passes_over_that(text: str) -> None:
    for whole in (text, f"({text}) || true", f"!({text}) && false"):
        with pytest.raises(CostError, match=f"{MAX_STEPS:,} steps|{MAX_MADE:,} characters"):
            value(whole)


@given(st.text(alphabet="()[]{}.,?:!-+*/%<>=&|'\"\\nrx019 euinalsizemap\n", max_size=40))
def test_any_text_is_an_expression_or_refused_with_a_message_in_one_line(text: str) -> None:
    try:
        tree = parse(text)
    except CelSyntaxError as error:
        said = str(error)
        assert "\n" not in said
        return
    with suppress(CelError, CostError):
        evaluate(tree, {"n": 1, "x": [1], "a": "t"})


def test_the_words_of_a_text_are_the_text_but_for_spaces_and_comments() -> None:
    text = "a.b[0] == 'x y' // tail\n && 1.5e3 >= .5"

    assert "".join(token.word for token in tokens(text)) == "a.b[0]=='x y'&&1.5e3>=.5"
    assert isinstance(parse("1 + 2"), Call)
