"""What lists of patterns say together, and as texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cis.model.scope import GLOBAL, Scope, ScopeType
from cis.model.scope_rules import allows, given_patterns, in_common, matches, read_patterns, spans, written

owned = st.builds(
    Scope,
    st.sampled_from([one for one in ScopeType if one is not ScopeType.GLOBAL]),
    st.from_regex(r"[ab]{1,3}", fullmatch=True),
)
scopes = st.just(GLOBAL) | owned
beginnings = scopes.flatmap(lambda scope: st.integers(0, len(str(scope))).map(lambda end: str(scope)[:end] + "*"))
patterns = scopes.map(str) | beginnings
lists = st.none() | st.lists(patterns, max_size=4).map(tuple)


@given(one=lists, other=lists, scope=scopes)
def test_what_two_lists_have_in_common_is_what_both_allow(
    one: tuple[str, ...] | None, other: tuple[str, ...] | None, scope: Scope
) -> None:
    assert allows(in_common(one, other), scope) == (allows(one, scope) and allows(other, scope))


@given(pattern=patterns, scope=scopes)
def test_spans_mean_what_their_pattern_means(pattern: str, scope: Scope) -> None:
    def within(owner: str) -> bool:
        return scope.id.startswith(owner[:-1]) if owner.endswith("*") else scope.id == owner

    assert any(kind is scope.type and within(owner) for kind, owner in spans(pattern)) == matches(pattern, scope)


@given(found=lists)
def test_what_is_stored_is_read_as_it_was(found: tuple[str, ...] | None) -> None:
    assert read_patterns(written(found)) == found


def test_a_list_that_lost_its_text_allows_nothing() -> None:
    assert read_patterns("") == ()
    assert not allows(read_patterns(""), GLOBAL)


def test_people_write_scopes_with_commas_and_a_star_for_all() -> None:
    assert given_patterns("project:a, user:*,project:a") == ("project:a", "user:*")
    assert given_patterns("project:a,*") is None
    for wrong in ("", ",", "projects:a", "project:a,*b", ",".join(f"user:{n}" for n in range(101))):
        with pytest.raises(ValueError, match=r"scope|more after"):
            given_patterns(wrong)
