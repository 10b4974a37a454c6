"""SQL is made of constants, and values are bound to it: nothing that somebody wrote becomes a part of a statement."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "cis"
_SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|VACUUM|ATTACH|WHERE|ORDER BY|LIMIT)\b")
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
# What is no constant by its name, where, and why it is one all the same.
KNOWN = {
    ("migrate.py", "number"): "the number of a migration, an int",
    ("attempts.py", "', '.join((f'{name} = excluded.{name}' for name in _TOLD))"): "columns",
    ("upkeep.py", "table"): "from a tuple of constants",
    ("runs.py", "column"): "from a tuple of constants",
    ("runs.py", "' AND '.join(conditions)"): "constants that a filter chooses",
    ("runs.py", "_where(conditions)"): "likewise",
    ("runs.py", "_where(equal)"): "likewise",
    ("runs.py", "_where(after)"): "likewise",
    ("runs.py", "newest"): "a constant of the function",
    ("runs.py", "side"): "one of < and >",
    ("file.py", "self._version()"): "the number of a schema, an int",
    ("attempts.py", "sql"): "constants that a filter chooses",
}


def statements(tree: ast.AST) -> Iterator[tuple[ast.expr, list[ast.expr]]]:
    """Yield each text with SQL in it that is put together, and what is put into it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and _SQL.search(_text(node)):
            yield node, [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and _SQL.search(_text(node.left)):
            yield node, [node.right]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = [node.left, node.right]
            if any(_SQL.search(_text(side)) for side in sides):
                yield node, [side for side in sides if not isinstance(side, ast.Constant | ast.JoinedStr | ast.BinOp)]
        elif isinstance(node, ast.Call) and _is_format(node.func):
            yield node, [*node.args, *(each.value for each in node.keywords)]


def _is_format(function: ast.expr) -> bool:
    made = isinstance(function, ast.Attribute) and function.attr == "format" and _SQL.search(_text(function.value))
    return bool(made)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return ""


def is_constant(value: ast.expr, file: str) -> bool:
    """Whether what is put into a statement was written by the program's author."""
    text = ast.unparse(value)
    if isinstance(value, ast.IfExp):
        return isinstance(value.body, ast.Constant) and isinstance(value.orelse, ast.Constant)
    if _CONSTANT.fullmatch(text) or (file, text) in KNOWN:
        return True
    return re.fullmatch(r"places_of\(_?[A-Z][A-Z0-9_]*\)", text) is not None


def loose(source: str, file: str) -> list[str]:
    """Return what is put into SQL and is no constant."""
    return [
        ast.unparse(value)
        for _, values in statements(ast.parse(source))
        for value in values
        if not is_constant(value, file)
    ]


def test_only_constants_are_put_into_sql() -> None:
    files = [file for folder in ("sql", "sqlite") for file in sorted((SOURCE / "store" / folder).glob("*.py"))]
    found = {file.name: loose(file.read_text(encoding="utf-8"), file.name) for file in files}

    assert len(files) > 10
    assert {file: values for file, values in found.items() if values} == {}


def test_no_sql_is_written_anywhere_but_in_the_store() -> None:
    calls = re.compile(r"\.(execute|executemany|executescript)\(\s*f?[\"'(]")
    outside = [file for file in SOURCE.rglob("*.py") if "store" not in file.relative_to(SOURCE).parts]

    assert [str(file) for file in outside if calls.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        'db.rows(f"SELECT * FROM runs WHERE id = {run_id}")',
        "db.rows(\"SELECT * FROM runs WHERE id = '%s'\" % run_id)",
        'db.rows("SELECT * FROM runs WHERE id = " + run_id)',
        'db.rows("SELECT * FROM runs WHERE id = {}".format(run_id))',
        'db.rows(f"SELECT * FROM runs ORDER BY {self.column}")',
    ],
)
def test_a_value_in_a_statement_would_be_seen(source: str) -> None:
    assert loose(source, "x.py")
