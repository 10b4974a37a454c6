"""Ten thousand generated expressions have the value, or the error, that they have in Google's runtime."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from cis.model.cel.checker import check
from cis.model.cel.evaluator import evaluate
from cis.model.cel.faults import CelError, CelSyntaxError
from cis.model.cel.parser import parse
from cis.model.task_kinds import MAX_EXPRESSION
from tests.model.cel.google import DATA, SYNTAX, about, answers, plain

pytestmark = pytest.mark.skipif(
    find_spec("cel_expr_python") is None, reason="Google's runtime has wheels for some machines alone"
)

SEED = int(os.environ.get("CIS_SEED", "23"))
EXPRESSIONS = 10_000
PATTERNS = ['r"^[a-z]+$"', "'^p'", "''", "'[0-9]+'", "p.num", '"("']


class Maker:
    """Makes expressions of a type that is wanted, and now and then of another."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)  # noqa: S311 - a seed repeats it
        self.bound: list[str] = []

    def any(self, depth: int) -> str:
        return self.of(self.pick.choice(("int", "double", "string", "bool", "list", "map")), depth)

    def of(self, kind: str, depth: int, *, exactly: bool = False) -> str:
        if self.pick.random() < 0.04 and not exactly:
            kind = self.pick.choice(("int", "double", "string", "bool", "list", "map", "null"))
        if depth <= 0 or self.pick.random() < 0.12:
            return self.leaf(kind)
        makers = {
            "int": self._int,
            "double": self._double,
            "string": self._string,
            "bool": self._bool,
            "list": self._list,
            "map": self._map,
        }
        if kind not in makers:
            return self.leaf(kind)
        made = makers[kind](depth - 1)
        return f"({made})" if self.pick.random() < 0.3 else made

    def leaf(self, kind: str) -> str:
        if self.bound and self.pick.random() < 0.4:
            return self.pick.choice(self.bound)
        return self.pick.choice(
            {
                "int": ["0", "1", "-1", "7", "-3", "0x1F", "p.n", "p.zero", "p.big", "9223372036854775807", "p['n']"],
                "double": ["0.0", "1.5", "-2.0", ".5", "1e3", "p.d", "1e19", "-0.5", "123456.75"],
                "string": ["''", "'a'", '"b\\n"', "r'\\d+'", "'''it's'''", "'87'", "' 5 '", "p.text", "p.num", "p.odd", "'true'", "p.empty", "'\\u00e9'"],
                "bool": ["true", "false", "p.yes", "has(p.n)", "has(p.nothing)", "has(p.map.one)"],
                "list": ["[]", "[1, 2]", "p.list", "p.names", "p.lines", "p.mixed", "['a', 1, null]"],
                "map": ["{}", "p.map", "{'a': 1, 'b': 'two'}", "{1: 'x'}", "{true: 1}", "p"],
                "null": ["null", "p.none", "p.nothing"],
            }[kind]
        )  # fmt: skip

    def _int(self, depth: int) -> str:
        made: Callable[[], str] = self.pick.choice(
            [
                lambda: f"{self.of('int', depth)} {self.pick.choice('+-*/%')} {self.of('int', depth)}",
                lambda: f"-{self._in_parens('int', depth)}",
                lambda: f"size({self.of(self.pick.choice(('string', 'list', 'map')), depth)})",
                lambda: f"{self._in_parens(self.pick.choice(('string', 'list', 'map')), depth)}.size()",
                lambda: f"int({self.of(self.pick.choice(('int', 'double', 'string')), depth)})",
                lambda: f"({self.of('bool', depth)} ? {self.of('int', depth)} : {self.of('int', depth)})",
                lambda: f"{self._in_parens('list', depth)}[{self.of('int', 0)}]",
                lambda: f"{self._in_parens('map', depth)}[{self.of(self.pick.choice(('string', 'int')), 0)}]",
            ]
        )
        return made()

    def _double(self, depth: int) -> str:
        made: Callable[[], str] = self.pick.choice(
            [
                lambda: f"{self.of('double', depth)} {self.pick.choice('+-*/')} {self.of('double', depth)}",
                lambda: f"-{self._in_parens('double', depth)}",
                lambda: f"double({self.of(self.pick.choice(('int', 'double', 'string')), depth)})",
            ]
        )
        return made()

    def _string(self, depth: int) -> str:
        made: Callable[[], str] = self.pick.choice(
            [
                lambda: f"{self.of('string', depth)} + {self.of('string', depth)}",
                lambda: f"string({self.of(self.pick.choice(('int', 'string', 'bool', 'double')), depth)})",
                lambda: f"p.map[{self.of('string', depth)}]",
                lambda: f"({self.of('bool', depth)} ? {self.of('string', depth)} : {self.of('string', depth)})",
            ]
        )
        return made()

    def _bool(self, depth: int) -> str:
        made: Callable[[], str] = self.pick.choice(
            [
                lambda: f"{self.any(depth)} {self.pick.choice(('==', '!='))} {self.any(depth)}",
                lambda: self._related(depth),
                lambda: self._related(depth),
                lambda: f"{self.of('bool', depth)} {self.pick.choice(('&&', '||'))} {self.of('bool', depth)}",
                lambda: f"{self.of('bool', depth)} {self.pick.choice(('&&', '||'))} {self.of('bool', depth)}",
                lambda: f"!{self._in_parens('bool', depth)}",
                lambda: f"{self.any(depth)} in {self.of(self.pick.choice(('list', 'map')), depth)}",
                lambda: (
                    f"{self._in_parens('string', depth)}.{self.pick.choice(('startsWith', 'endsWith', 'contains'))}({self.of('string', depth)})"
                ),
                lambda: f"{self._in_parens('string', depth)}.matches({self.pick.choice(PATTERNS)})",
                lambda: f"bool({self.of(self.pick.choice(('string', 'bool')), depth)})",
                lambda: self._loop(self.pick.choice(("all", "exists", "exists_one")), depth),
            ]
        )
        return made()

    def _related(self, depth: int) -> str:
        kind = self.pick.choice(("int", "double", "string", "int"))
        other = self.pick.choice(("int", "double")) if kind != "string" else kind
        return f"{self.of(kind, depth)} {self.pick.choice(('<', '<=', '>', '>='))} {self.of(other, depth)}"

    def _list(self, depth: int) -> str:
        made: Callable[[], str] = self.pick.choice(
            [
                lambda: f"[{', '.join(self.any(depth) for _ in range(self.pick.randrange(4)))}]",
                lambda: f"{self.of('list', depth)} + {self.of('list', depth)}",
                lambda: self._loop("filter", depth),
                lambda: self._loop("map", depth),
            ]
        )
        return made()

    def _map(self, depth: int) -> str:
        names = self.pick.sample(["'a'", "'b'", "p.text", "'one'"], self.pick.randrange(1, 4))
        return f"{{{', '.join(f'{name}: {self.any(depth)}' for name in names)}}}"

    def _loop(self, macro: str, depth: int) -> str:
        # The order of a map's keys is each runtime's own: what depends on it is given one key.
        source = "{'a': 1}" if self.pick.random() < 0.1 else f"({self.of('list', depth, exactly=True)})"
        name = self.pick.choice("vw")
        self.bound.append(name)
        body = self.of("bool" if macro != "map" else self.pick.choice(("int", "string")), depth)
        only = f"{self.of('bool', depth)}, " if macro == "map" and self.pick.random() < 0.3 else ""
        self.bound.pop()
        return f"{source}.{macro}({name}, {only}{body})"

    def _in_parens(self, kind: str, depth: int) -> str:
        made = self.of(kind, depth)
        return made if re.fullmatch(r"[a-z.]+|\[[^\[\]]*\]", made) else f"({made})"


def ours(text: str) -> str:
    """Return what comes of an expression here."""
    try:
        return plain(evaluate(parse(text), DATA))
    except CelSyntaxError:
        return SYNTAX
    except CelError as error:
        return about(error.message)


def expressions() -> list[str]:
    """Return the generated expressions, which are all different."""
    maker, found = Maker(SEED), dict[str, None]()
    while len(found) < EXPRESSIONS:
        text = maker.any(maker.pick.randrange(1, 5))
        if len(text) <= MAX_EXPRESSION and "string(0.0 /" not in text:
            found[text] = None
    return list(found)


@pytest.fixture(scope="module")
def made() -> list[str]:
    """The expressions."""
    return expressions()


@pytest.fixture(scope="module")
def theirs(made: list[str]) -> list[tuple[str, bool]]:
    """What Google says of each."""
    return answers(made)


def test_ten_thousand_expressions_have_the_value_or_the_error_that_google_gives_them(
    made: list[str], theirs: list[tuple[str, bool]]
) -> None:
    wrong = []
    for text, (there, _) in zip(made, theirs, strict=True):
        here = ours(text)
        # A loop ends with its first error here; there it goes on, and tells the last.
        both = (
            here.startswith("error") and there.startswith("error") and re.search(r"\.(map|filter|exists_one)\(", text)
        )
        # The order of a map's keys is each runtime's own.
        if here != there and not both and sorted(here) != sorted(there):
            wrong.append((text, here, there))

    assert len(made) == EXPRESSIONS
    assert wrong[:5] == [], len(wrong)
    assert 0.2 * EXPRESSIONS < sum(there.startswith("error") for there, _ in theirs) < 0.6 * EXPRESSIONS


def test_what_is_refused_for_its_types_google_refuses_as_well(made: list[str], theirs: list[tuple[str, bool]]) -> None:
    # Its checker lets null be a time or a message, and so lets it pass where neither can be.
    refused = [
        (text, taken)
        for text, (there, taken) in zip(made, theirs, strict=True)
        if "null" not in text and there != SYNTAX and check(parse(text), {"p": lambda *_: "dyn"}).faults
    ]

    assert len(refused) > EXPRESSIONS / 50
    assert [text for text, taken in refused if taken] == []
