"""How ``cis node start`` serves: its listening socket, its HTTP server, and waiting for room on a full disk.

A node whose disk is full when it starts answers that, and looks once a second whether there is room.
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn

from cis.api.probes import Unready
from cis.cli.context import say
from cis.errors import ConflictError, StoreError, StoreFullError, UsageError
from cis.node.home import Home
from cis.store import open_store

log = logging.getLogger(__name__)

MAX_BACKLOG = 1024

LOOK_EVERY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConflictError when it cannot be had, UsageError for a bad host."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--host {host!r} cannot be resolved: {reason}") from error
    # The protocol is named, or asyncio would not turn Nagle's algorithm off for its connections.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"another process listens on {host}:{port}; end it, or take another port (--port, or port under [node])"
            ) from error
        raise ConflictError(
            f"cannot listen on {host}:{port}: {error.strerror}; take another address (--host, --port, or [node])"
        ) from error
    return listener


def server_config(app: Any) -> uvicorn.Config:
    """Return how *app* is served."""
    from cis.api.connection import TimedConnection  # noqa: PLC0415 - with the server

    return uvicorn.Config(
        app,
        http=TimedConnection,
        ws="none",
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=5,
        server_header=False,
    )


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Answer requests until INT or TERM.

    uvicorn stops on either, and then raises the signal again under the handler that it found. That one lets the node
    wind down; a second signal ends it at once, and the workers, who miss their parent, after it. An INT that was ignored
    (in a script's background) stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        heard = server.handle_exit
        setattr(server, "handle_exit", lambda sig, frame: sig == signal.SIGINT or heard(sig, frame))  # noqa: B010 - a method
    found = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def is_full(error: Exception) -> bool:
    """Whether *error* says that there is no room on the disk."""
    return isinstance(error, StoreFullError) or (isinstance(error, OSError) and error.errno in _FULL)


def wait_for_room(home: Home, listener: socket.socket, why: str) -> bool:
    """Answer on *listener* that the disk is full until the database can be opened; False when told to stop before."""
    log.error("the disk is full; this node waits for room", extra={"error": why})
    say(f"cis: {why}; meanwhile this node takes no DAGs")
    server = _Server(server_config(Unready(why)))
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(home, server, over), name="room", daemon=True)
    thread.start()
    try:
        run_server(server, listener.dup())  # the server closes the socket that it is given
    finally:
        over.set()
        thread.join()
    return not server.told


class _Server(uvicorn.Server):
    """Knows whether it was told to stop."""

    told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.told = True
        super().handle_exit(sig, frame)


def _look(home: Home, server: uvicorn.Server, over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY_S):
        try:
            open_store(home.store).close()
        except StoreFullError:
            continue
        except StoreError:
            pass  # another fault: the start meets it, and says so
        server.should_exit = True
        return
