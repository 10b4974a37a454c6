"""Graphs, retry delays and durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.model.dag import Backoff, TaskSpec
from cis.model.durations import MAX_DELAY_S, format_duration, parse_duration
from cis.model.graph import Graph
from cis.model.references import fill, references


@st.composite
def parent_lists(draw: st.DrawFn, *, acyclic: bool) -> list[list[int]]:
    """Return, for each node, the nodes it depends on."""
    count = draw(st.integers(1, 12))
    return [
        sorted(
            draw(st.sets(st.integers(0, (number if acyclic else count) - 1), max_size=4))
            if number or not acyclic
            else ()
        )
        for number in range(count)
    ]


@given(parent_lists(acyclic=True))
def test_the_order_and_the_levels_of_a_dag_respect_every_edge(parents: list[list[int]]) -> None:
    graph = Graph.from_parents(parents)
    order = graph.order()
    level = {number: depth for depth, numbers in enumerate(graph.levels()) for number in numbers}

    assert sorted(order) == list(range(len(parents)))
    assert graph.find_cycle() is None
    for number, mine in enumerate(parents):
        assert all(order.index(parent) < order.index(number) for parent in mine)
        assert level[number] == max((level[parent] + 1 for parent in mine), default=0)


@given(parent_lists(acyclic=False))
def test_what_is_found_as_a_cycle_is_one_and_a_graph_without_one_can_be_ordered(parents: list[list[int]]) -> None:
    graph = Graph.from_parents(parents)
    cycle = graph.find_cycle()

    if cycle is None:
        assert len(graph.order()) == len(parents)
    else:
        assert len(set(cycle)) == len(cycle)
        assert all(after in parents[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))


@given(parent_lists(acyclic=True), st.integers(1, 3))
def test_strangers_are_those_that_no_way_up_leads_to(parents: list[list[int]], bits: int) -> None:
    """However many are followed at once."""
    graph = Graph.from_parents(parents)
    everyone = [(task, other) for task in range(len(parents)) for other in range(len(parents))]
    above: list[set[int]] = []
    for mine in parents:
        above.append(set(mine).union(*(above[parent] for parent in mine)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cis.model.graph._BITS", bits)
        strangers = graph.strangers(everyone)

    assert strangers == {(task, other) for task, other in everyone if other not in above[task]}


def test_nothing_is_said_of_tasks_that_a_cycle_holds_back() -> None:
    graph = Graph.from_parents([[1], [0], [1], []])

    assert graph.strangers([(2, 0), (2, 3), (0, 3), (3, 0)]) == {(3, 0)}


@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_a_chain_of_any_length_is_ordered_and_a_ring_of_any_length_is_found(count: int) -> None:
    chain = Graph.from_parents([[number - 1] if number else [] for number in range(count)])
    ring = Graph.from_parents([[(number + 1) % count] for number in range(count)])

    assert len(chain.levels()) == count
    assert chain.critical_path([1.0] * count) == list(range(count))
    assert chain.find_cycle() is None
    assert len(ring.find_cycle() or []) == count


def test_the_critical_path_is_the_heaviest_chain() -> None:
    graph = Graph.from_parents([[], [], [0], [1, 2]])

    assert graph.critical_path([1.0, 5.0, 2.0, 1.0]) == [1, 3]
    assert graph.critical_path([4.0, 5.0, 2.0, 1.0]) == [0, 2, 3]


@given(
    delay=st.floats(0, 10_000),
    failures=st.integers(1, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
    backoff=st.sampled_from(list(Backoff)),
)
def test_a_retry_delay_stays_in_its_bounds(delay: float, failures: int, jitter: float, backoff: Backoff) -> None:
    spec = TaskSpec(id="a", command="x", retry_delay_s=delay, retry_backoff=backoff)
    wait = spec.wait_before_retry_s(failures=failures, jitter=jitter)

    if backoff is Backoff.CONSTANT:
        assert wait == delay
    else:
        assert delay / 2 <= wait <= max(MAX_DELAY_S, delay)


def test_an_exponential_delay_doubles_until_its_cap() -> None:
    spec = TaskSpec(id="a", command="x", retry_delay_s=10, retry_backoff=Backoff.EXPONENTIAL)

    assert [spec.wait_before_retry_s(failures=n, jitter=0.0) for n in (1, 2, 3, 20)] == [5, 10, 20, MAX_DELAY_S / 2]


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("5m", 300), ("2h", 7200), ("1d", 86400), (90, 90), ("1.5", 1.5)]
)
def test_durations_are_read_in_every_form(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", -1, "1w", float("inf"), float("nan"), True, None, "1e9d", 10**12])
def test_what_is_no_duration_is_refused(text: float | str) -> None:
    with pytest.raises(ValueError, match=r"duration|bounds"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.35, "350ms"), (4.2, "4.2s"), (185, "3m05s"), (7620, "2h07m"), (273600, "3d04h")]
)
def test_durations_are_shown_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_references_are_found_and_filled_in_nested_values_and_ids_may_hold_dots() -> None:
    value = {"a": ["x ${tasks.b.c.outputs.v}!"], "n": 1, "plain": "${HOME}"}

    assert [(one.task, one.output) for one in references(value)] == [("b.c", "v")]
    assert fill(value, lambda one: f"<{one.task}:{one.output}>") == {"a": ["x <b.c:v>!"], "n": 1, "plain": "${HOME}"}
