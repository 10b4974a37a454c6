"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, make_sandbox

BOTH_STORES = {
    f"test_{name}"
    for name in (
        "whole_path",
        "scopes",
        "tries",
        "run_answers",
        "stored_dags",
        "params",
        "conditions",
        "exit_codes",
        "run_timeout",
        "triggers",
        "values",
        "reruns",
        "handlers",
        "many",
    )
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have the tests of some modules run over both stores."""
    if "sandbox" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in BOTH_STORES:
        metafunc.parametrize("sandbox", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def sandbox(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A home of its own, and the ``cis`` command that uses it."""
    made = make_sandbox(tmp_path)
    if getattr(request, "param", "sqlite") == "sqlite":
        yield made
        return
    with request.getfixturevalue("postgres").database() as url:
        yield replace(made, env={**made.env, "CIS_STORE": url})
