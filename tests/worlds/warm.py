"""``cis`` commands without the start of an interpreter: each is a fork of a process that has loaded the program.

To load it takes ten times as long as most commands. What a command is given and what it gives is that of any process:
words, environment, folder, streams, exit status. Only its ``/proc`` shows the words and the environment of the other,
so that nothing fits that runs or ends tasks, nor another version of the program: see ``fits``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
GROUPS = {"audit", "config", "db", "init", "token"}
COMMANDS = {
    "dag": {"definitions", "delete", "diff", "list", "logs", "save", "show", "status", "validate", "worker"},
    "node": {"list", "status", "trust", "untrust"},
    "room": {"setup", "status"},
}
VARIABLES = {"HOME", "LANG", "NO_COLOR", "PATH", "TMPDIR"}
MAX_REQUEST = 1 << 20


def fits(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command may be such a fork."""
    known = words[:1] and (
        words[0] in GROUPS or (words[0] in COMMANDS and words[1:2] and words[1] in COMMANDS[words[0]])
    )
    plain = all(name in VARIABLES or name.startswith("CIS_") for name in environment)
    here = sys.platform == "linux" and environment.get("LANG") == os.environ.get("LANG")
    return bool(known) and plain and here


def run(
    words: Sequence[str], environment: Mapping[str, str], *, stdin: str | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command that fits, and return what it said."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write((stdin or "").encode())
        given.seek(0)
        status = _ask(words, environment, [given, out, err], timeout_s=timeout_s)
        said, wrong = (_text(stream) for stream in (out, err))
    return subprocess.CompletedProcess(["cis", *words], status, said, wrong)


# --- asking for a fork


def _ask(words: Sequence[str], environment: Mapping[str, str], streams: list[IO[bytes]], *, timeout_s: float) -> int:
    request = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as call:
        call.settimeout(timeout_s)
        call.connect(_keeper())
        call.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
        socket.send_fds(call, [json.dumps(request).encode()], [stream.fileno() for stream in streams])
        pid = int(call.recv(64))
        try:
            return int(call.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["cis", *words], timeout_s) from None


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="surrogateescape").replace("\r\n", "\n")


_lock = threading.Lock()
_keepers: dict[int, tuple[str, Any]] = {}


def _keeper() -> str:
    """Return where the process listens that forks; this process has one, which ends with it."""
    with _lock:
        if os.getpid() not in _keepers:
            address = f"\0cis-tests-{os.getpid()}-{os.urandom(8).hex()}"
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(address)
            listener.listen(64)
            kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.worlds.warm", str(listener.fileno())],
                cwd=ROOT,
                env=kept,
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
            listener.close()
            _keepers[os.getpid()] = address, process
        return _keepers[os.getpid()][0]


# --- the process that forks


def _load() -> None:
    """Load what commands load."""
    from cis.cli.main import build_parser  # noqa: PLC0415

    build_parser()
    for name in ("dag.control", "dag.logs", "dag.list", "dag.run", "dag.status", "node_peers"):
        __import__(f"cis.cli.{name}")
    __import__("cis.store.sqlite.store")
    __import__("cis.skills.registry")


def _serve(listener: socket.socket) -> int:
    """Fork for each call, until the parent has ended; in the fork, run its command and return the status."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:
            return 0  # nobody holds the other end any more
        call, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _answer(call, listener)
        call.close()


def _answer(call: socket.socket, listener: socket.socket) -> int:
    """Fork once more, since only a parent learns how a process ended."""
    listener.close()
    data, descriptors, _, _ = socket.recv_fds(call, MAX_REQUEST, 3)
    pid = os.fork()
    if pid:
        call.send(str(pid).encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        call.send(str(status).encode())
        os._exit(0)
    call.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    asked = json.loads(data)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["cis", *asked["words"]]
    from cis.cli.main import main  # noqa: PLC0415

    return main()


if __name__ == "__main__":
    _load()
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1]))))
