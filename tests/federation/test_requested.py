"""A DAG with parameters on its way to another node: beside the message, with their values."""

from __future__ import annotations

import json

from cis.federation.requested import document_fields, requested_run
from cis.model.document import dag_from_plain
from cis.model.message import Message, MessageKind

PLAIN = {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}
WITH = {**PLAIN, "params": {"x": {"type": "number"}}}


def sent(document: object, params: dict[str, object]) -> tuple[dict[str, object], str | None]:
    """Return the fields and the blob of a message that hands a DAG over."""
    return document_fields(json.dumps(document), [], params)


def test_values_travel_beside_the_document_as_they_are() -> None:
    fields, blob = sent(WITH, {"x": 0.1})
    head = {"dag_id": "d", "scope": {"type": "global", "id": None}, "dag_ref": {"sha256": "", "size": 1}}
    message = Message(
        kind=MessageKind.EXECUTE, message_id="m", sender="node-2", created_at_us=1, expires_at_us=2, fields=head
    )
    requested = requested_run(message, blob=blob, parse=dag_from_plain)

    assert fields == {}
    assert (requested.params, dict(requested.spec.params)) == ({"x": 0.1}, WITH["params"])


def test_a_dag_without_parameters_travels_in_the_message_as_before() -> None:
    fields, blob = sent(PLAIN, {})

    assert blob is None
    assert fields["tasks"] == PLAIN["tasks"]
