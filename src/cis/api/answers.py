"""JSON answers, written once: what the engine's views return is neither copied nor validated again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from cis.model.dag import Json


def encoded(content: Json) -> bytes:
    """Return *content* as JSON in UTF-8; half a surrogate pair stays the escape that it came as."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def json_answer(content: Json, *, status: int = 200) -> Response:
    """Return *content* as a response."""
    return Response(encoded(content), status_code=status, media_type="application/json")


def list_answer(items: Sequence[Json], *, next_cursor: str | None = None) -> Response:
    """Return one page of a list as a response."""
    content: dict[str, Any] = {"items": items, "next_cursor": next_cursor}
    return json_answer(content)
