"""What the http and python skills start, run as the worker runs it, against a real server and real modules."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cis.engine.outputs import take_outputs
from cis.engine.ports import Command, Skill
from cis.skills.http import HttpSkill
from cis.skills.python import PythonSkill


@dataclass(frozen=True, slots=True)
class Done:
    """What a skill's process left: exit status, streams, outputs."""

    code: int
    out: bytes
    err: str
    outputs: Mapping[str, str]


def do(skill: Skill, folder: Path, params: Mapping[str, Any]) -> Done:
    """Run a skill's process in *folder*, with the environment of a task."""
    assert list(skill.check(params)) == []
    command = skill.plan(params)
    assert isinstance(command, Command)
    outputs = folder / "outputs"
    outputs.unlink(missing_ok=True)
    env = {"PATH": os.environ["PATH"], "CIS_OUTPUT": str(outputs), **command.env}
    done = subprocess.run(
        command.argv, input=command.stdin, env=env, cwd=folder, capture_output=True, timeout=30, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr.decode(), take_outputs(str(outputs)))


OK, OF_TWO = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
RAW = {
    "/short": OK + b"Content-Length: 1000\r\n\r\nid,amount\n",
    "/short-chunk": CHUNKED + b"a\r\n12345",
    "/no-last-chunk": CHUNKED + b"2\r\nok\r\n",
    "/nothing": b"",
    "/early": b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK + OF_TWO,
    "/always-early": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200,
    "/no-length": OK + b"\r\nok",
}
SLOW = {"/slow-headers": OK, "/slow-chunks": CHUNKED, "/drip": OK + b"\r\n"}


class Handler(BaseHTTPRequestHandler):
    """Says back what it was asked; some paths do something special."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/status/"):
            self.send(int(self.path.rpartition("/")[2]), b"said so")
        elif self.path == "/moved":
            self.send(302, b"", Location="/echo")
        elif self.path.startswith("/to/"):
            self.send(302, b"", Location=self.path.removeprefix("/to/"))
        elif self.path == "/large":
            self.send(200, b"x" * (11 << 20))
        elif self.path in RAW:
            self.close_connection = True
            self.wfile.write(RAW[self.path])
        elif self.path.startswith("/hops"):
            self.server.stopped.wait(0.2)  # type: ignore[attr-defined]
            self.send(302, b"", Location="/hops" if self.path != "/hops" else "/hops2")
        elif self.path in SLOW:
            self.wfile.write(SLOW[self.path])
            try:
                while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
                    self.wfile.write(b"X-A: b\r\n" if self.path == "/slow-headers" else b"0")
            except OSError:
                return
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = {
                "method": self.command,
                "path": self.path,
                "headers": headers,
                "body": body.decode(),
                "items": [{"n": 1}],
            }
            self.send(200, json.dumps(said).encode())

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the base class looks for these

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002 - the base class calls it so
        return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.stopped = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.stopped.set()  # type: ignore[attr-defined]
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def http(tmp_path: Path) -> Any:
    return lambda **params: do(HttpSkill(), tmp_path, params)


@pytest.fixture
def python(tmp_path: Path) -> Any:
    return lambda **params: do(PythonSkill(), tmp_path, params)


def test_an_answer_gives_its_body_and_outputs(http: Any, server: str) -> None:
    done = http(url=f"{server}/echo", headers={"X-Number": 7})

    said = json.loads(done.out)
    assert done.code == 0
    assert (said["method"], said["headers"]["x-number"], said["headers"]["user-agent"]) == ("GET", "7", "cis-dag")
    assert (done.outputs["status"], done.outputs["bytes"]) == ("200", str(len(done.out)))
    assert 0 < float(done.outputs["elapsed_s"]) < 30
    assert done.err.startswith(f"GET {server}/echo: 200 OK, {len(done.out)} bytes in ")


@pytest.mark.parametrize(
    ("params", "body", "kind"),
    [
        ({"json": {"a": [1, "é"]}}, json.dumps({"a": [1, "é"]}), "application/json"),
        ({"body": "é"}, "é", "text/plain; charset=utf-8"),
        (
            {"body": "a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}},
            "a=1",
            "application/x-www-form-urlencoded",
        ),
    ],
)
def test_a_body_is_sent_with_its_type(http: Any, server: str, params: dict[str, Any], body: str, kind: str) -> None:
    said = json.loads(http(url=f"{server}/echo", method="post", **params).out)

    assert (said["method"], said["body"], said["headers"]["content-type"]) == ("POST", body, kind)


@pytest.mark.parametrize(
    ("path", "expect", "complaint"),
    [
        ("/status/500", None, "status is 500, expected 2xx"),
        ("/status/404", {"status": [200, "3xx"]}, "status is 404, expected 200 or 3xx"),
        ("/status/200", {"status": 201}, "status is 200, expected 201"),
        ("/echo", {"body_contains": "absent"}, "the body does not contain 'absent'"),
        ("/status/200", {"json": {"a": 1}}, "the body is not JSON"),
        ("/echo", {"json": {"items.0.n": 2}}, "the JSON at 'items.0.n' is 1, expected 2"),
        ("/echo", {"json": {"items.5.n": 2}}, "the JSON has nothing at 'items.5.n'"),
        ("/echo", {"json": {"method.x": 2}}, "the JSON has nothing at 'method.x'"),
    ],
)
def test_an_answer_that_is_not_as_expected_fails(
    http: Any, server: str, path: str, expect: dict[str, Any] | None, complaint: str
) -> None:
    done = http(url=server + path, **({} if expect is None else {"expect": expect}))

    assert done.code == 1
    assert complaint in done.err.splitlines()


@pytest.mark.parametrize(
    ("path", "expect"),
    [
        ("/status/404", {"status": 404}),
        ("/status/503", {"status": ["200", "5xx"]}),
        ("/echo", {"body_contains": "items", "json": {"items.0.n": 1, "method": "GET"}}),
    ],
)
def test_an_answer_that_is_as_expected_succeeds(http: Any, server: str, path: str, expect: dict[str, Any]) -> None:
    assert http(url=server + path, expect=expect).code == 0


def test_a_redirect_is_followed_unless_it_is_what_is_expected(http: Any, server: str) -> None:
    followed = http(url=f"{server}/moved")
    expected = http(url=f"{server}/moved", expect={"status": 302})

    assert (followed.code, followed.outputs["status"]) == (0, "200")
    assert (expected.code, expected.outputs["status"]) == (0, "302")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/short", "the answer broke off after 10 bytes, 990 before its end"),
        ("/short-chunk", "the answer broke off"),
        ("/no-last-chunk", "the answer broke off"),
        ("/nothing", "the connection was closed without an answer"),
        ("/always-early", "more than 100 answers before the answer"),
    ],
)
def test_an_answer_that_breaks_off_is_a_failure_without_outputs(http: Any, server: str, path: str, said: str) -> None:
    done = http(url=server + path)

    assert done.code == 1
    assert said in done.err
    assert (done.out, done.outputs) == (b"", {})


@pytest.mark.parametrize("path", ["/early", "/no-length"])
def test_the_answer_is_what_comes_after_early_hints_and_ends_as_it_says(http: Any, server: str, path: str) -> None:
    done = http(url=server + path)

    assert (done.code, done.out, done.outputs["status"]) == (0, b"ok", "200")


@pytest.mark.parametrize("path", ["/slow-headers", "/slow-chunks", "/drip", "/hops"])
def test_the_timeout_is_for_all_of_it(http: Any, server: str, path: str) -> None:
    done = http(url=server + path, timeout="700ms")

    assert done.code == 1
    assert "no complete answer within 0.7 s" in done.err


def test_a_url_may_hold_letters_that_are_not_ascii(http: Any, server: str) -> None:
    done = http(url=f"{server}/echo-grün/a%20b?q=ü&r=1#teil")

    assert json.loads(done.out)["path"] == "/echo-gr%C3%BCn/a%20b?q=%C3%BC&r=1"


@pytest.mark.parametrize("expected", [True, [True], {"a": True}, 2])
def test_true_is_not_one_in_what_is_expected(http: Any, server: str, expected: Any) -> None:
    path = next(iter(expected)) if isinstance(expected, dict) else ""
    one = {"items.0.n": expected} if not path else {"items": [{"n": True}]}

    assert http(url=f"{server}/echo", expect={"json": one}).code == 1
    assert http(url=f"{server}/echo", expect={"json": {"items": [{"n": 1.0}]}}).code == 0


def test_credentials_do_not_follow_a_redirect_to_another_host(http: Any, server: str) -> None:
    port = server.rpartition(":")[2]
    headers = {"Authorization": "Bearer s3cret", "X-Kept": "1"}
    same = json.loads(http(url=f"{server}/to//echo", headers=headers).out)["headers"]
    other = json.loads(http(url=f"{server}/to/http://localhost:{port}/echo", headers=headers).out)["headers"]

    assert same["authorization"] == "Bearer s3cret"
    assert "authorization" not in other
    assert other["x-kept"] == "1"


def test_a_redirect_to_a_file_is_refused(http: Any, server: str) -> None:
    done = http(url=f"{server}/to/file:///etc/passwd")

    assert done.code == 1
    assert done.out == b""


def test_a_body_over_its_bound_is_cut_and_said_to_be(http: Any, server: str) -> None:
    done = http(url=f"{server}/large")

    assert (done.code, len(done.out), done.outputs["bytes"]) == (0, 10 << 20, str(10 << 20))
    assert "only its first 10485760 bytes were read" in done.err


def test_a_server_that_never_ends_its_answer_runs_into_the_time_limit(http: Any, server: str) -> None:
    done = http(url=f"{server}/drip", timeout="300ms")

    assert done.code == 1
    assert done.err == f"GET {server}/drip: no complete answer within 0.3 s\n"


def test_a_server_that_is_not_there_is_said_to_be(http: Any) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/"

        assert http(url=url).err == f"GET {url}: connection refused; does the server run, and is this its port?\n"


def test_a_server_that_says_nothing_runs_into_the_time_limit(http: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        assert http(url=url, timeout=0.2).err == f"GET {url}: no complete answer within 0.2 s\n"


def test_modules_that_lie_around_do_not_reach_into_a_request(http: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")

    assert http(url=f"{server}/echo").code == 0


MODULE = """
import http.client, os, sys
def same(*args, **kwargs): return {"args": args, **kwargs}
def give(value): return value
def wordy(): print("to standard output"); print("to standard error", file=sys.stderr)
def wrong(): raise ValueError("of all things")
def leave(): raise SystemExit(7)
class Shop:
    @staticmethod
    def open(): return {"cwd": os.getcwd(), "http": http.__file__}
"""


@pytest.fixture
def module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        (
            {"name": "x y=z", "count": 3, "ratio": 0.5, "fine": True, "none": None},
            {"name": "x y=z", "count": "3", "ratio": "0.5", "fine": "true", "none": "null"},
        ),
        ({"nested": {"a": 1}}, {"result": '{"nested":{"a":1}}'}),
        ({"two": "lines\nhere"}, {"result": '{"two":"lines\\nhere"}'}),
        ({"no name": 1}, {"result": '{"no name":1}'}),
        ({}, {"result": "{}"}),
        ([1, "é"], {"result": '[1,"é"]'}),
        ("text", {"result": "text"}),
        ("two\nlines", {"result": '"two\\nlines"'}),
        (7, {"result": "7"}),
        (None, {}),
    ],
)
def test_what_a_function_returns_becomes_outputs(python: Any, value: Any, outputs: dict[str, str]) -> None:
    done = python(callable="mine:give", args=[value])

    assert (done.code, done.err, done.outputs) == (0, "", outputs)


@pytest.mark.usefixtures("module")
def test_arguments_arrive_as_they_are(python: Any) -> None:
    done = python(module="mine", function="same", args=[1, None, ["é"]], kwargs={"key": {"a": 0.5}})

    assert json.loads(done.outputs["result"]) == {"args": [1, None, ["é"]], "key": {"a": 0.5}}


@pytest.mark.usefixtures("module")
def test_a_function_runs_in_the_tasks_directory_and_sees_no_module_of_the_skills(python: Any, tmp_path: Path) -> None:
    """``cis/skills/http.py`` must not stand in for the standard library's ``http``."""
    done = python(callable="mine:Shop.open")

    assert done.outputs["cwd"] == str(tmp_path)
    assert "cis" not in Path(done.outputs["http"]).parts


@pytest.mark.usefixtures("module")
def test_what_a_function_prints_is_the_tasks_output(python: Any) -> None:
    done = python(callable="mine:wordy")

    assert (done.out, done.err, done.outputs) == (b"to standard output\n", "to standard error\n", {})


@pytest.mark.usefixtures("module")
def test_an_exception_is_shown_from_the_first_frame_that_is_the_authors(python: Any) -> None:
    done = python(callable="mine:wrong")

    assert done.code == 1
    assert done.err.endswith("ValueError: of all things\n")
    assert "mine.py" in done.err
    assert "python_call.py" not in done.err


@pytest.mark.usefixtures("module")
def test_an_exit_status_that_the_function_chose_is_kept(python: Any) -> None:
    assert python(callable="mine:leave").code == 7


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("absent:thing", "No module named 'absent'"),
        ("json:absent", "has no attribute 'absent'"),
        ("fractions:Fraction", "fractions:Fraction returned what is not JSON: "),
    ],
)
def test_a_call_that_cannot_be_made_or_handed_back_says_why(python: Any, call: str, complaint: str) -> None:
    done = python(callable=call)

    assert done.code == 1
    assert complaint in done.err


def test_nan_is_not_json(python: Any) -> None:
    assert "returned what is not JSON" in python(callable="builtins:float", args=["nan"]).err


def test_a_foreign_interpreter_needs_no_cis(python: Any, tmp_path: Path) -> None:
    """An interpreter without any installed packages stands for one of another environment."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    other.chmod(0o700)

    assert python(callable="os.path:basename", args=["a/b"], python="./python").outputs == {"result": "b"}
