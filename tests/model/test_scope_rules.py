"""Patterns over scopes, and what several tables say together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.model.scope import GLOBAL, Scope, ScopeType, parse_scope
from cis.model.scope_rules import NO_RULES, ScopeRules, ScopeTable, allows, matches, pattern_fault, rules_of

owned = st.builds(
    Scope,
    st.sampled_from([one for one in ScopeType if one is not ScopeType.GLOBAL]),
    st.from_regex(r"[a-c]{1,3}", fullmatch=True),
)
scopes = st.just(GLOBAL) | owned
beginnings = scopes.flatmap(lambda scope: st.integers(0, len(str(scope))).map(lambda end: str(scope)[:end] + "*"))
patterns = scopes.map(str) | beginnings


@given(pattern=beginnings, scope=scopes)
def test_a_beginning_matches_what_begins_with_it_and_is_no_fault(pattern: str, scope: Scope) -> None:
    assert pattern_fault(pattern) is None
    assert matches(pattern, scope) == str(scope).startswith(pattern[:-1])


@given(scope=scopes, other=scopes)
def test_a_scope_written_out_matches_itself_alone(scope: Scope, other: Scope) -> None:
    assert pattern_fault(str(scope)) is None
    assert matches(str(scope), other) == (scope == other)


@pytest.mark.parametrize(
    "text", ["", "x", "*project", "a*", "project:a*b", "project:a**", "global:*", "globals*", "project:../*", 3]
)
def test_what_can_match_no_scope_is_refused(text: object) -> None:
    assert pattern_fault(text) is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("project:a b", "scope project: the id 'a b' is not an id; "),
        ("user", "scope user: the id is empty; "),
        ("global:x", "scope global takes no id; leave 'x' out; "),
    ],
)
def test_why_a_scope_is_none_is_one_sentence_and_then_the_other_form(text: str, why: str) -> None:
    said = str(pattern_fault(text))

    assert said.startswith(why)
    assert said.endswith("; or write a beginning and '*'")


def test_no_patterns_at_all_allow_every_scope_and_an_empty_list_none() -> None:
    assert allows(None, GLOBAL)
    assert not allows((), GLOBAL)


def table(pattern: str, **rules: object) -> ScopeTable:
    return ScopeTable(pattern=pattern, rules=ScopeRules(**rules))  # type: ignore[arg-type]  # names of the test


def test_tables_are_merged_key_by_key_and_the_longest_match_wins() -> None:
    tables = [
        table("project:a", slots=1, env={"B": "own"}),
        table("project:*", slots=2, max_runs=5, env={"A": "projects", "B": "projects"}),
        table("project:a*", slots=3, secrets=("X",)),
        table("*", max_queued=7, max_runs=9),
        table("user:*", slots=9),
    ]

    assert rules_of(tables, parse_scope("project:a")) == ScopeRules(
        slots=1, max_runs=5, max_queued=7, env={"A": "projects", "B": "own"}, secrets=("X",)
    )
    assert rules_of(tables, parse_scope("project:ab")).slots == 3
    assert rules_of(tables[4:], GLOBAL) == NO_RULES


@given(
    tables=st.permutations(
        [table("*", slots=1), table("project:*", slots=2), table("project:a", slots=3), table("project:a*", slots=4)]
    )
)
def test_the_order_of_tables_does_not_matter(tables: list[ScopeTable]) -> None:
    assert rules_of(tables, parse_scope("project:a")).slots == 3
