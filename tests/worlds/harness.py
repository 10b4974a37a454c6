"""Drives the real ``cis`` command and a real node, each test in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg

from cis.store.postgres.dialect import translated_sql
from tests.worlds import warm
from tests.worlds.waiting import wait_for

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, headers and the body, read as JSON where it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """A node that runs: its address, its token and its pid."""

    url: str
    token: str
    process: subprocess.Popen[bytes]

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "own",
    ) -> Answer:
        """Send a request and return the answer, whatever its status."""
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        request = urllib.request.Request(self.url + path, data=data, method=method)  # noqa: S310 - loopback
        if isinstance(body, Mapping):
            request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {self.token if token == 'own' else token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback
                return _answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, dict(error.headers), error.read())

    def execute(self, document: Mapping[str, Any], **headers: str) -> Answer:
        """Post a DAG."""
        return self.call("POST", "/api/v1/dag/execute", body=document, headers=headers)

    def run(self, run_id: str) -> Any:
        """Return a run as the API shows it."""
        return self.call("GET", f"/api/v1/runs/{run_id}").body

    def finished(self, run_id: str, *, timeout_s: float = DEADLINE_S) -> Any:
        """Wait until a run is final, and return it."""

        def final() -> Any:
            run = self.run(run_id)
            return run if run["status"] in ("completed", "failed", "cancelled") else None

        return wait_for(final, timeout_s=timeout_s, what=f"the end of run {run_id}")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A ``CIS_HOME`` with the command that uses it."""

    home: Path
    env: Mapping[str, str]

    def at(self, home: Path, **environment: str) -> Sandbox:
        """Return the same command over another home or environment."""
        return Sandbox(home, {**self.env, "CIS_HOME": str(home), **environment})

    def cis(
        self, *arguments: str, stdin: str | None = None, timeout_s: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``cis`` and return what it said."""
        if warm.fits(arguments, self.env):
            return warm.run(arguments, self.env, stdin=stdin, timeout_s=timeout_s)
        return subprocess.run(
            [sys.executable, "-m", "cis", *arguments],
            env=dict(self.env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str, stdin: str | None = None, expect: int = 0) -> Any:
        """Run ``cis … --json`` and return the document that it printed."""
        done = self.cis(*arguments, "--json", stdin=stdin)
        assert done.returncode == expect, f"cis {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask the database directly."""
        if "CIS_STORE" in self.env:
            with psycopg.connect(self.env["CIS_STORE"], cursor_factory=psycopg.RawCursor) as there:
                return there.execute(translated_sql(sql), parameters).fetchall()
        connection = apsw.Connection(str(self.home / "cis.db"), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(10_000)  # whoever opens it after a crash holds it for a moment
        try:
            return list(connection.execute(sql, parameters))
        finally:
            connection.close()

    @contextmanager
    def node(
        self, *arguments: str, words: Sequence[str] = (sys.executable, "-m", "cis"), **environment: str
    ) -> Iterator[NodeProcess]:
        """Start a node on a free port; stop it with TERM, and fail if it does not end orderly.

        *words* begin its command.
        """
        with (self.home.parent / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [*words, "node", "start", "--port", "0", *arguments],
                env={**self.env, **environment},
                stdout=log,
                stderr=log,
            )
        try:
            url = (
                wait_for(lambda: self._announced(process), timeout_s=DEADLINE_S, what="the node to announce itself")
                or ""
            )
            token = (self.home / "token").read_text().strip()
            yield NodeProcess(url, token, process)
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                status = process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        assert status == 0, f"the node ended with {status}: {self.node_log()[-2000:]}"

    def node_log(self) -> str:
        """Return what the node wrote."""
        return (self.home.parent / "node.log").read_text()

    def _announced(self, process: subprocess.Popen[bytes]) -> str | None:
        assert process.poll() is None, f"the node ended early: {self.node_log()[-2000:]}"
        try:
            told = json.loads((self.home / "run" / "node.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return str(told["url"]) if told["pid"] == process.pid else None


def make_sandbox(folder: Path) -> Sandbox:
    """Return a sandbox whose home is a new folder in *folder*."""
    home = folder / "home"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return Sandbox(home, {**kept, "CIS_HOME": str(home), "NO_COLOR": "1"})


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_dag(folder: Path, document: Mapping[str, Any], *, name: str = "dag.json") -> str:
    """Write a document to a file and return its path."""
    path = folder / name
    path.write_text(json.dumps(document))
    return str(path)


def _answer(status: int, headers: Mapping[str, str], data: bytes) -> Answer:
    is_json = "json" in headers.get("Content-Type", headers.get("content-type", ""))
    return Answer(status, headers, json.loads(data) if is_json else data.decode("utf-8", "replace"))
