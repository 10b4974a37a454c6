"""Several real nodes that trust each other, and a proxy between them that does what a bad network does."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.worlds.harness import DEADLINE_S, NodeProcess, Sandbox, make_sandbox
from tests.worlds.versions import running as of_source
from tests.worlds.waiting import wait_for

FINAL = ("completed", "failed", "cancelled")

T = TypeVar("T")


def free_port() -> int:
    """Return a port that nobody uses, and that no outgoing connection is given while its node is down."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(slots=True)
class ClusterNode:
    """A node with a home and a port of its own; it may be ended in any way and started again."""

    node_id: str
    sandbox: Sandbox
    port: int
    public_key: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers while it runs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> NodeProcess:
        """Its API."""
        assert self.process is not None, f"{self.node_id} is not running"
        return NodeProcess(self.url, (self.sandbox.home / "token").read_text().strip(), self.process)

    def make(self) -> None:
        """Make its home."""
        self.sandbox.json("init", "--node-id", self.node_id)
        self.public_key = self.sandbox.json("node", "status")["public_key"]

    def start(self, **environment: str) -> None:
        """Start it, and return once it answers."""
        with (self.sandbox.home.parent / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cis", "node", "start", "--port", str(self.port)],
                env={**self.sandbox.env, **environment},
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, timeout_s=DEADLINE_S, what=f"{self.node_id} to answer")

    def stop(self) -> None:
        """End it orderly."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            status = self.process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        assert status == 0, f"{self.node_id} ended with {status}: {self.sandbox.node_log()[-2000:]}"

    def kill(self) -> None:
        """End it with KILL, in whatever it does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=20)
        self.process = None

    def trust(self, other: ClusterNode, *, url: str | None = "", may: str | None = None) -> None:
        """Trust another node; *url* None: without an address."""
        address = other.url if url == "" else url
        words = ["--url", address] if address is not None else []
        words += ["--may", may] if may is not None else []
        self.sandbox.json("node", "trust", other.node_id, other.public_key, *words)

    def trust_all(self, others: Sequence[ClusterNode]) -> None:
        """Trust other nodes, each at its address."""
        for other in others:
            self.trust(other)

    def peer(self, node_id: str) -> Any:
        """Return another node as ``cis node list`` shows it."""
        return next(peer for peer in self.sandbox.json("node", "list") if peer["node_id"] == node_id)

    def audited(self, action: str) -> list[dict[str, Any]]:
        """Return what the audit log has of an action, newest first."""
        return [entry for entry in self.sandbox.json("audit", "--limit", "10000") if entry["action"] == action]

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.node_id} ended early: {self.sandbox.node_log()[-2000:]}"
        with contextlib.suppress(OSError):
            return self.api.call("GET", "/ready", token=None).status == 200
        return False


def make_nodes(
    folder: Path, count: int, *, sources: Mapping[str, Path] | None = None, stores: Sequence[str] = ()
) -> list[ClusterNode]:
    """Return node-1 to node-*count*, each with a home; none runs and none trusts another.

    *sources* are those of nodes that are of another version of this program, by node id; *stores* are addresses of
    databases, one for each node that is not to have a file.
    """
    nodes = [ClusterNode(f"node-{number}", _sandbox(folder, number), free_port()) for number in range(1, count + 1)]
    for node, store in zip(nodes, stores, strict=False):
        node.sandbox = node.sandbox.at(node.sandbox.home, CIS_STORE=store)
    for node in nodes:
        if sources and node.node_id in sources:
            node.sandbox = of_source(node.sandbox, sources[node.node_id])
    at_once(node.make for node in nodes)
    return nodes


def befriend(*nodes: ClusterNode) -> None:
    """Make all of them trust each other."""
    at_once(partial(one.trust_all, [other for other in nodes if other is not one]) for one in nodes)


@contextmanager
def running(*nodes: ClusterNode) -> Iterator[None]:
    """Start nodes that do not run; in the end stop those that do."""
    try:
        at_once(node.start for node in nodes if node.process is None)
        yield
    finally:
        at_once(node.stop for node in nodes)


def at_once(functions: Iterable[Any]) -> None:
    """Call functions, each in a thread; raise what one of them raised, once all have ended."""
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result()


def ended(node: ClusterNode, run_id: str, *, timeout_s: float = 60.0) -> Any:
    """Wait until a run is over as a node sees it, and return it as the API shows it."""

    def look() -> Any:
        run = node.api.run(run_id)
        return run if run["status"] in FINAL else None

    return wait_for(look, timeout_s=timeout_s, what=f"the end of run {run_id} as {node.node_id} sees it")


def statuses(node: ClusterNode, run_ids: Sequence[str]) -> dict[str, str]:
    """Return how runs stand in a node's database."""
    known = dict(node.sandbox.rows("SELECT run_id, status FROM dag_runs"))
    return {run_id: str(known[run_id]) for run_id in run_ids if run_id in known}


def all_over(node: ClusterNode, run_ids: Sequence[str], *, timeout_s: float) -> dict[str, str]:
    """Wait until all runs are over in a node's database, and return how they ended."""

    def look() -> dict[str, str] | None:
        found = statuses(node, run_ids)
        return found if len(found) == len(run_ids) and set(found.values()) <= set(FINAL) else None

    wait_for(look, timeout_s=timeout_s, what=f"the end of {len(run_ids)} runs as {node.node_id} sees them")
    return statuses(node, run_ids)


def _sandbox(folder: Path, number: int) -> Sandbox:
    home = folder / f"node-{number}"
    home.mkdir()
    return make_sandbox(home)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How likely each fault is for one request; the rest goes through.

    ``delay_s`` is the longest delay, ``hold_s`` how long a request is held back for a later one at most.
    """

    drop_before: float = 0.0
    drop_after: float = 0.0
    double: float = 0.0
    hold: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.2
    hold_s: float = 0.4

    @classmethod
    def foul(cls) -> Weather:
        """Return one in which each second request has something happen to it."""
        return cls(drop_before=0.08, drop_after=0.1, double=0.14, hold=0.1, delay=0.1)


@dataclass(slots=True)
class Proxy:
    """Forwards requests to a node, one a connection, with faults; its port stays while it is switched off.

    ``done`` counts what happened to requests, by name: that of a fault, or ``passed``.
    """

    target: str
    seed: int
    weather: Weather = field(default_factory=Weather)
    port: int = field(default_factory=free_port)
    done: Counter[str] = field(default_factory=Counter)
    _chance: random.Random = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _server: asyncio.Server | None = None
    _serving: set[asyncio.Task[Any]] = field(default_factory=set)
    _passed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - it has to be the same each time
        threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def url(self) -> str:
        """The address that stands for the target's."""
        return f"http://127.0.0.1:{self.port}"

    def on(self) -> None:
        """Take connections."""
        self._call(self._switch_on())

    def off(self) -> None:
        """Break all connections, and refuse new ones."""
        self._call(self._switch_off())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _switch_on(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    async def _switch_off(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            request = await _read_message(reader)
            answer = await self._carry(request)
            if answer is not None:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.done["broken"] += 1
        finally:
            self._serving.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _carry(self, request: bytes) -> bytes | None:
        fault = self._fault()
        self.done[fault] += 1
        if fault == "drop_before":
            return None
        if fault == "delay":
            await asyncio.sleep(self._chance.random() * self.weather.delay_s)
        if fault == "hold":
            await self._let_others_pass()
        answer = await self._forward(request)
        if fault == "double":
            answer = self._chance.choice([answer, await self._forward(request)])
        self._passed.set()
        return None if fault == "drop_after" else answer

    async def _let_others_pass(self) -> None:
        """Hold a request back until a later one has been answered, if one comes."""
        self._passed.clear()
        try:
            async with asyncio.timeout(self.weather.hold_s):
                await self._passed.wait()
            self.done["overtaken"] += 1
        except TimeoutError:
            pass

    def _fault(self) -> str:
        draw = self._chance.random()
        for name in ("drop_before", "drop_after", "double", "hold", "delay"):
            draw -= getattr(self.weather, name)
            if draw < 0:
                return name
        return "passed"

    async def _forward(self, request: bytes) -> bytes:
        parts = urlsplit(self.target)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(request)
            await writer.drain()
            return await _read_message(reader)
        finally:
            writer.close()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Return a request, or an answer, that says how long it is; it says as well that its connection ends with it."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    names = [line.partition(b":")[0].strip().lower() for line in lines]
    named = list(zip(names, lines, strict=True))
    length = next((int(line.partition(b":")[2]) for name, line in named if name == b"content-length"), 0)
    kept = [line for name, line in named if name not in (b"connection", b"")]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""]) + await reader.readexactly(length)


class Listener:
    """A server of the test's own that gives everybody the same answer, and remembers what came.

    *answer* is all of it, or None to close the connection.
    """

    def __init__(self, answer: bytes | None) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self.requests.append(connection.recv(65536))
                if self._answer is not None:
                    connection.sendall(self._answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass


def http_answer(status: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return an HTTP answer as bytes."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
