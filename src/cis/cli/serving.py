"""The listening socket of a node, and how its HTTP server runs and is told to stop."""

from __future__ import annotations

import errno
import signal
import socket
from typing import Any

import uvicorn

from cis.errors import ConflictError, UsageError

MAX_BACKLOG = 1024


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
    from cis.api.connection import PatientConnection  # noqa: PLC0415 - with the server

    return uvicorn.Config(
        app,
        http=PatientConnection,
        ws="none",
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=5,
        server_header=False,
    )


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Answer requests until INT or TERM.

    uvicorn stops on either, and then raises the signal again under the handler that it found. That one lets the node wind
    down; a second signal ends it at once, and the workers, who miss their parent, after it.
    """
    found = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
