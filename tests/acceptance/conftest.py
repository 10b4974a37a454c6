"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
        "random_documents",
    )
}
# Of modules whose every test would cost too much, those that say most of recovery, of two nodes and of a room.
TOO = {
    "test_a_node_that_is_killed_and_started_at_once_takes_up_its_runs_after_the_old_worker_is_gone",
    "test_a_stopped_worker_of_a_node_that_was_killed_is_ended_by_the_next_one",
    "test_a_node_that_is_told_to_stop_lets_tasks_end_within_the_grace_period_and_hands_back_the_others",
    "test_a_command_takes_up_its_own_run_and_leaves_earlier_ones_to_the_next_node",
    "test_a_task_that_kills_its_worker_is_failed_after_its_bound_and_an_innocent_one_of_its_scope_ends",
    "test_a_dag_for_node_1_runs_there_alone_and_node_2_shows_all_of_it",
    "test_pause_resume_and_cancel_typed_on_node_2_act_on_node_1",
    "test_rerun_on_node_2_starts_anew_on_node_1_and_from_failed_keeps_what_was_done",
    "test_a_new_key_is_followed_without_a_hand_and_the_old_one_is_refused_from_then_on",
    "test_a_dag_that_node_2_puts_into_the_room_runs_on_node_1_alone",
    "test_a_dag_without_a_target_runs_on_exactly_one_node_that_takes_such",
    "test_cancel_pause_and_resume_work_through_the_room",
}
SHARED = {"test_push": "pair", "test_room": "cluster"}  # nodes that the tests of a module share
STORES = ["sqlite", "postgres"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have the tests of some modules run over both stores."""
    module, name = metafunc.module.__name__.rpartition(".")[2], metafunc.function.__name__
    if "sandbox" in metafunc.fixturenames and (module in BOTH_STORES or name in TOO):
        metafunc.parametrize("sandbox", STORES, indirect=True)
    shared = SHARED.get(module)
    if shared is not None and shared in metafunc.fixturenames:
        metafunc.parametrize(shared, STORES if name in TOO else STORES[:1], indirect=True, scope="module")


@pytest.fixture(scope="module")
def stores(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], list[str]]]:
    """Return what gives the addresses of so many databases, or of none where the nodes have files."""
    with ExitStack() as ends:

        def give(kind: str, count: int) -> list[str]:
            if kind == STORES[0]:
                return []
            addresses: list[str] = ends.enter_context(request.getfixturevalue("postgres").databases(count))
            return addresses

        yield give


@pytest.fixture
def sandbox(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A home of its own, and the ``cis`` command that uses it."""
    made = make_sandbox(tmp_path)
    if getattr(request, "param", "sqlite") == "sqlite":
        yield made
        return
    with request.getfixturevalue("postgres").database() as url:
        yield replace(made, env={**made.env, "CIS_STORE": url})
