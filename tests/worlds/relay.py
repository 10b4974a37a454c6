"""A relay between this program and a PostgreSQL, which cuts the connection at a commit that a test chooses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

COMMIT = b"COMMIT\0"
BEGIN = b"BEGIN\0"
AT_ONCE = 1 << 16


@dataclass
class Relay:
    """Forwards each connection; ``cut`` says which commits are to be lost, or whose answers."""

    port: int
    server: tuple[str, int]
    cuts: list[str] = field(default_factory=list)  # what was done, in order
    _plans: list[tuple[bytes, bool]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self, having: str, *, stored: bool) -> None:
        """Cut the next commit of a transaction that says *having*: before the server gets it, or once it is *stored*."""
        with self._lock:
            self._plans.append((having.encode(), stored))

    @property
    def done(self) -> bool:
        """Whether all that was ordered has been cut."""
        with self._lock:
            return not self._plans

    def serve(self, client: socket.socket) -> None:
        """Forward one connection to its end."""
        with client, socket.create_connection(self.server) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mute = threading.Event()
            back = threading.Thread(target=_copy, args=(server, client, mute), daemon=True)
            back.start()
            said = b""
            with suppress(OSError):
                while data := client.recv(AT_ONCE):
                    said = (data if BEGIN in data else said + data)[-(1 << 20) :]
                    plan = self._take(said) if COMMIT in data else None
                    if plan is None:
                        server.sendall(data)
                        continue
                    self.cuts.append("stored" if plan[1] else "lost")
                    mute.set()
                    if plan[1]:
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        back.join()  # the server has answered, and closes
                    break
            for each in (client, server):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            back.join()

    def _take(self, said: bytes) -> tuple[bytes, bool] | None:
        with self._lock:
            for plan in self._plans:
                if plan[0] in said:
                    self._plans.remove(plan)
                    return plan
        return None


def _copy(server: socket.socket, client: socket.socket, mute: threading.Event) -> None:
    with suppress(OSError):
        while data := server.recv(AT_ONCE):
            if not mute.is_set():
                client.sendall(data)
        if not mute.is_set():
            client.shutdown(socket.SHUT_WR)


@contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """Give a relay before the server on *port* of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener.getsockname()[1], ("127.0.0.1", port))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=_serve, args=(relay, client), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(relay: Relay, client: socket.socket) -> None:
    with suppress(OSError):
        relay.serve(client)
