"""Count one package of Python's standard library: files, lines, functions, classes, imports.

    python3 census/count.py PACKAGE

Writes $OUT/parts/PACKAGE.json, and lines, functions and imports as the task's outputs. ``modules`` stands for the
modules that are single files. A package that this Python came without counts as nothing.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import sysconfig
import warnings
from pathlib import Path

LEFT_OUT = {"test", "tests", "idle_test", "__pycache__", "site-packages"}


def sources(package: str) -> list[Path]:
    """Return the package's source files, without its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    if package == "modules":
        return sorted(library.glob("*.py"))
    found = (library / package).rglob("*.py")
    return sorted(path for path in found if not LEFT_OUT & set(path.relative_to(library).parts))


def imported(node: ast.AST) -> set[str]:
    """Return the top-level names that one statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        return {node.module.partition(".")[0]}
    return set()


def census(package: str) -> dict[str, object]:
    """Return the figures of one package."""
    files = sources(package)
    lines = functions = classes = 0
    imports: set[str] = set()
    for path in files:
        text = path.read_bytes()
        lines += text.count(b"\n")
        for node in ast.walk(ast.parse(text, filename=str(path))):
            functions += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            classes += isinstance(node, ast.ClassDef)
            imports |= imported(node)
    return {
        "package": package,
        "files": len(files),
        "lines": lines,
        "functions": functions,
        "classes": classes,
        "imports": len(imports - {package}),
    }


def main() -> None:
    """Count the package that the command line names."""
    warnings.simplefilter("ignore")  # old modules are full of old escapes
    figures = census(sys.argv[1])
    part = Path(os.environ["OUT"], "parts", f"{sys.argv[1]}.json")
    part.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    with Path(os.environ["CIS_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.writelines(f"{name}={figures[name]}\n" for name in ("lines", "functions", "imports"))
    print("{package}: {files} files, {lines:,} lines, {functions:,} functions, {imports} imports".format(**figures))


if __name__ == "__main__":
    main()
