"""The process of the http skill: reads a request as JSON, sends it, checks the answer. Standard library only.

standard input   the skill's parameters as one JSON object, in which ``${secrets.NAME}`` stands for a variable
standard output  the body, its first 10 MiB
standard error   one line about the answer, one for each expectation that was not met
exit status      0 when everything was as expected, 1 otherwise
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

MAX_BODY_BYTES = 10 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_PRIVATE_HEADERS = ("authorization", "cookie", "proxy-authorization")
_MOST_EARLY = 100  # answers before the answer (RFC 9110, 15.2)
_SWITCHING = 101  # is one of its own
_PARTS = "!#$%&'()*+,/:;=?@[]~"  # what stays as it is in a path or a query (RFC 3986, 2.2), and what is encoded already
_SECRET = re.compile(r"\$\{secrets\.([A-Za-z_][A-Za-z0-9_]*)\}")


_Answer = tuple[int, str, bytes, bool]


class _Response(HTTPResponse):
    """Passes over all that comes before the answer (103 Early Hints), not only over 100 as its base class does."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_EARLY):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 <= status < 200 or status == _SWITCHING:
                return version, status, reason
            while self.fp.readline(1 << 16).strip():
                pass
        raise HTTPException(f"more than {_MOST_EARLY} answers before the answer")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but takes credentials to no other host: the usual ones, and headers named *private*."""

    def __init__(self, private: Sequence[str]) -> None:
        self._private = {*_PRIVATE_HEADERS, *(name.lower() for name in private)}

    def redirect_request(  # noqa: PLR0917 - urllib's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"redirected to {newurl}, which is not http or https")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            for name in [name for name in following.headers if name.lower() in self._private]:
                following.remove_header(name)
        return following


class _Answers(urllib.request.HTTPErrorProcessor):
    """Hands every answer back, whatever its status, except the redirects that are to be followed."""

    def __init__(self, *, follow: bool) -> None:
        self._follow = follow

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        if self._follow and response.status in _REDIRECTS:
            return super().http_response(request, response)
        return response

    https_response = http_response


def main() -> int:
    """Do what standard input asks for; return the exit status."""
    params = json.load(sys.stdin.buffer)
    private = [name for name, value in params.get("headers", {}).items() if _SECRET.search(str(value))]
    try:
        params = _with_secrets(params)
    except KeyError as error:
        _say(f"the secret {error} is not given to this task; add it to its secrets")
        return 1
    expect = params.get("expect", {})
    wanted = _wanted_statuses(expect.get("status", "2xx"))
    where = f"{params.get('method', 'GET').upper()} {params['url']}"
    began_s = time.monotonic()
    try:
        follow = not any(status.startswith("3") for status in wanted)
        status, reason, body, whole = _within(params["timeout"], lambda: _exchange(params, private, follow=follow))
    except (OSError, HTTPException, ValueError) as error:
        _say(f"{where}: {_why(error, timeout_s=params['timeout'])}")
        return 1
    elapsed_s = time.monotonic() - began_s

    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    _say(f"{where}: {status} {reason}, {len(body)} bytes in {elapsed_s:.3f} s")
    if not whole:
        _say(f"the body is longer; only its first {MAX_BODY_BYTES} bytes were read")
    _give_outputs(status=status, bytes=len(body), elapsed_s=round(elapsed_s, 6))
    unmet = _unmet(expect, wanted, status=status, body=body)
    for line in unmet:
        _say(line)
    return 1 if unmet else 0


def _within(seconds: float, do: Callable[[], _Answer]) -> _Answer:
    """Return what *do* returns, within so long: whatever it waits for then is left behind in its thread.

    Nothing else ends a look-up of a name, which waits in the C library. Raises what *do* raises, and TimeoutError.
    """
    came: list[_Answer | Exception] = []

    def run() -> None:
        try:
            came.append(do())
        except Exception as error:  # noqa: BLE001 - it is raised again below
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not came:
        raise TimeoutError
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]


def _exchange(params: Mapping[str, Any], private: Sequence[str], *, follow: bool) -> _Answer:
    """Send the request; return status, reason, the body or its first bytes, and whether that is all of it."""
    HTTPConnection.response_class = _Response
    with _opened(params, private=private, follow=follow) as answer:
        body, whole = _read(answer)
        return answer.status, answer.reason, body, whole


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _with_secrets(value: Any) -> Any:
    """Return *value* with each reference to a secret filled in, here where nobody stores it. Raises KeyError."""
    if isinstance(value, str):
        return _SECRET.sub(lambda match: os.environ[match[1]], value)
    if isinstance(value, dict):
        return {name: _with_secrets(item) for name, item in value.items()}
    return [_with_secrets(item) for item in value] if isinstance(value, list) else value


def _opened(params: Mapping[str, Any], *, private: Sequence[str], follow: bool) -> Any:
    headers = {"User-Agent": "cis-dag", **{name: str(value) for name, value in params.get("headers", {}).items()}}
    data = None
    if "json" in params:
        data = json.dumps(params["json"]).encode()
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    elif "body" in params:
        data = params["body"].encode()
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "text/plain; charset=utf-8"
    request = urllib.request.Request(  # noqa: S310 - the opener below knows http and https only
        _in_ascii(params["url"]), data=data, headers=headers, method=params.get("method", "GET").upper()
    )
    opener = urllib.request.OpenerDirector()  # by hand: the ready-made one also opens file: and ftp: addresses
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(private),
        _Answers(follow=follow),
    ):
        opener.add_handler(handler)
    try:
        answer = opener.open(request, timeout=params["timeout"])
    except urllib.error.HTTPError as error:  # a redirect that may not be followed: an answer all the same
        return error
    if answer is None:
        raise urllib.error.URLError("not an http or https address")
    return answer


def _in_ascii(url: str) -> str:
    """Return an address as it is sent: a host's name by IDNA, all else in percent-encoded UTF-8 (RFC 3987, 3.1)."""
    if url.isascii():
        return url
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return urlunsplit((parts.scheme, host, *(quote(part, safe=_PARTS) for part in (parts.path, parts.query)), ""))


def _read(answer: Any) -> tuple[bytes, bool]:
    """Return the body, or its first bytes, and whether that is all of it. Raises IncompleteRead when it breaks off."""
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES:
        chunk = answer.read1(1 << 16)
        if not chunk:
            if answer.length:  # that many bytes were announced and did not come
                raise IncompleteRead(bytes(body), answer.length)
            return bytes(body), True
        body += chunk
    return bytes(body[:MAX_BODY_BYTES]), False


def _wanted_statuses(wanted: Any) -> list[str]:
    return [str(one) for one in (wanted if isinstance(wanted, list) else [wanted])]


def _unmet(expect: Mapping[str, Any], wanted: list[str], *, status: int, body: bytes) -> list[str]:
    """Return one line for each expectation that the answer does not meet."""
    lines = []
    if not any(one == str(status) or one == f"{status // 100}xx" for one in wanted):
        lines.append(f"status is {status}, expected {' or '.join(wanted)}")
    text = expect.get("body_contains")
    if text is not None and text.encode() not in body:
        lines.append(f"the body does not contain {text!r}")
    if "json" in expect:
        lines += _unmet_json(expect["json"], body)
    return lines


def _unmet_json(expected: Mapping[str, Any], body: bytes) -> list[str]:
    try:
        data = json.loads(body)
    except ValueError:
        return ["the body is not JSON"]
    lines = []
    for path, value in expected.items():
        try:
            found = _at(data, path)
        except (LookupError, TypeError, ValueError):
            lines.append(f"the JSON has nothing at {path!r}")
            continue
        if not _same(found, value):
            lines.append(f"the JSON at {path!r} is {json.dumps(found)}, expected {json.dumps(value)}")
    return lines


def _same(found: Any, expected: Any) -> bool:
    """Whether two values of JSON are the same: 1 is 1.0, and neither is true."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same(found[name], expected[name]) for name in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return isinstance(found, bool) is isinstance(expected, bool) and bool(found == expected)


def _at(data: Any, path: str) -> Any:
    for step in path.split("."):
        data = data[int(step)] if isinstance(data, list) else data[step]
    return data


def _give_outputs(**outputs: object) -> None:
    path = os.environ.get("CIS_OUTPUT")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def _why(error: Exception, *, timeout_s: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no complete answer within {timeout_s:g} s"
    if isinstance(cause, IncompleteRead):
        missing = f", {cause.expected:,} before its end" if cause.expected else ""
        return f"the answer broke off after {len(cause.partial):,} bytes{missing}"
    if isinstance(cause, RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused; does the server run, and is this its port?"
    if isinstance(cause, socket.gaierror):
        return f"the host's name cannot be resolved: {cause.strerror}"
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)


if __name__ == "__main__":
    sys.exit(main())
