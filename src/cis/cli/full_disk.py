"""A node whose disk is full when it starts: it answers that, and looks once a second whether there is room."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from types import FrameType

import uvicorn

from cis.api.unready import Unready
from cis.cli.context import say
from cis.cli.serving import run_server, server_config
from cis.errors import StoreError, StoreFullError
from cis.node.home import Home
from cis.store.sqlite.store import open_sqlite

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
            open_sqlite(home.db).close()
        except StoreFullError:
            continue
        except StoreError:
            pass  # another fault: the start meets it, and says so
        server.should_exit = True
        return
