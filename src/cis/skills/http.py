"""The http skill: one request, and what is expected of the answer. The request is ``cis.skills.http_request``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cis.engine.ports import Command
from cis.model.durations import FORMS, parse_duration
from cis.skills.shell import Faults, Rule, broken_rules, is_number, is_open, is_text, refuse, unknown_params

if TYPE_CHECKING:
    from cis.model.dag import Json

DEFAULT_TIMEOUT_S = 30.0
_SCRIPT = str(Path(__file__).with_name("http_request.py"))
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_STATUS = re.compile(r"[1-5](xx|[0-9]{2})")


class HttpSkill:
    """Sends a request and checks the answer.

    Outputs: ``status``, ``bytes`` of the body, ``elapsed_s``. The body goes to standard output.
    """

    name = "http"
    description = "Sends an HTTP request and checks the answer."
    triggers: tuple[str, ...] = ("task",)
    literal_params: frozenset[str] = frozenset()

    def check(self, params: Mapping[str, Json]) -> Faults:
        """Return each fault of *params*."""
        faults = [*unknown_params(params, known=tuple(_RULES)), *broken_rules(params, _RULES)]
        if "url" not in params:
            faults.append(("url", "is missing; write where the request goes"))
        if "body" in params and "json" in params:
            faults.append(("json", "and body exclude each other; keep one"))
        expect = params.get("expect")
        if isinstance(expect, Mapping):
            faults += _under("expect", unknown_params(expect, known=tuple(_EXPECT_RULES)))
            faults += _under("expect", broken_rules(expect, _EXPECT_RULES))
        return faults

    def plan(self, params: Mapping[str, Json]) -> Command:
        """Return the request as a process; the parameters go in through standard input, out of sight of ``ps``."""
        refuse(self.check(params))
        # -I -S: only the standard library, whatever lies in the directory or the environment; it starts faster, too.
        request = {**params, "timeout": parse_duration(params.get("timeout", DEFAULT_TIMEOUT_S))}
        return Command(argv=(sys.executable, "-I", "-S", _SCRIPT), stdin=json.dumps(request).encode())


def _under(place: str, faults: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{place}.{name}", text) for name, text in faults]


def _is_url(value: Json) -> bool:
    if not is_text(value):
        return False
    try:
        parts = urlsplit(value)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and "@" not in parts.netloc and not _BLANK.search(value)


def _is_headers(value: Json) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _TOKEN.fullmatch(name) and _is_header_value(content)
        for name, content in value.items()
    )


def _is_header_value(value: Json) -> bool:
    return is_number(value) or (isinstance(value, str) and not re.search(r"[\r\n\0]", value))


def _is_status(value: Json) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_status(one) and not isinstance(one, list) for one in value)
    return is_open(value) or (not isinstance(value, bool) and _STATUS.fullmatch(str(value)) is not None)


def _is_timeout(value: Json) -> bool:
    try:
        return parse_duration(value) > 0
    except ValueError:
        return False


def _is_mapping(value: Json) -> bool:
    return isinstance(value, Mapping)


_RULES: dict[str, tuple[Rule, str]] = {
    "url": (_is_url, "must be an address like http://host/path or https://host/path; credentials go into headers"),
    "method": (
        lambda value: isinstance(value, str) and _TOKEN.fullmatch(value) is not None,
        "must be a word like POST",
    ),
    "headers": (_is_headers, "must be a mapping of header names to single-line strings"),
    "body": (lambda value: isinstance(value, str), "must be a string; for data, use json"),
    "json": (lambda _: True, ""),
    "timeout": (_is_timeout, f"must be a duration above 0; {FORMS}"),
    "expect": (_is_mapping, "must be a mapping of status, body_contains and json"),
}

_EXPECT_RULES: dict[str, tuple[Rule, str]] = {
    "status": (_is_status, "must be a status like 200, a class like 2xx, or a list of these"),
    "body_contains": (lambda value: isinstance(value, str), "must be a string"),
    "json": (_is_mapping, "must be a mapping of paths like data.items.0.name to values"),
}
