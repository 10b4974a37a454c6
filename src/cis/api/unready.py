"""What a node answers that cannot open its store yet: that it is there, and why it takes no DAGs."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cis.api.answers import json_answer
from cis.api.problems import RETRY_AFTER_S, problem
from cis.errors import StoreFullError


class Unready:
    """An ASGI app: ``/health`` is fine, and everything else 503 with the reason."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            answer = json_answer({"status": "ok"})
        else:
            code = "not_ready" if scope["path"] == "/ready" else StoreFullError.code
            answer = problem(503, code=code, detail=self._why, headers={"Retry-After": str(RETRY_AFTER_S)})
        await answer(scope, receive, send)
