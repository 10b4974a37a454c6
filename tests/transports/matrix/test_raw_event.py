"""What is read of one event as a homeserver gives it."""

from __future__ import annotations

from typing import Any

import pytest

from cis.transports.matrix.sync import UNKNOWN_AGE_MS, raw_event

PLAIN = {"event_id": "$1", "sender": "@a:x", "type": "t", "content": {"n": 1}, "unsigned": {"age": 5}}


def test_an_event_is_read_as_it_stands() -> None:
    event = raw_event({**PLAIN, "state_key": "", "unsigned": {"age": 5, "transaction_id": "x"}})

    assert event is not None
    assert (event.event_id, event.sender, event.type, event.content) == ("$1", "@a:x", "t", {"n": 1})
    assert (event.age_ms, event.state_key, event.txn_id) == (5, "", "x")


@pytest.mark.parametrize("unsigned", [{}, {"age": None}, {"age": "5"}, {"age": 1.5}, None, []])
def test_an_event_of_unknown_age_looks_old(unsigned: Any) -> None:
    event = raw_event({**PLAIN, "unsigned": unsigned})

    assert event is not None
    assert event.age_ms == UNKNOWN_AGE_MS


def test_an_event_of_the_future_is_new() -> None:
    event = raw_event({**PLAIN, "unsigned": {"age": -5}})

    assert event is not None
    assert event.age_ms == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": None},
        {"sender": 1},
        {"type": {}},
        {"content": []},
        {"content": {"text": "\ud800"}},
        {"sender": "@\udfff:x"},
    ],
    ids=ascii,
)
def test_what_is_no_event_or_cannot_be_stored_is_left_out(fields: dict[str, Any]) -> None:
    assert raw_event({**PLAIN, **fields}) is None
