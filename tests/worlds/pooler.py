"""A real pgbouncer of the tests' own before a PostgreSQL: as a user without rights, on a free port of loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.worlds.debian import program
from tests.worlds.postgres import UNPRIVILEGED, USER, PostgresServer
from tests.worlds.waiting import wait_for

STOP_S = 20.0


@contextmanager
def running_pooler(server: PostgresServer, *, mode: str) -> Iterator[int]:
    """Give the port of a pooler in *mode* (session, transaction, statement) before all databases of *server*."""
    pgbouncer = program("pgbouncer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cis-pooler-") as folder:
        path = Path(folder) / "pgbouncer.ini"
        path.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\n"
        )
        root = os.geteuid() == 0
        if root:
            shutil.chown(folder, UNPRIVILEGED)
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                [pgbouncer, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                user=UNPRIVILEGED if root else None,
                group=pwd.getpwnam(UNPRIVILEGED).pw_gid if root else None,
                extra_groups=[] if root else None,
            )
        try:
            wait_for(lambda: _answers(port) or process.poll() is not None, what="the pooler")
            assert process.poll() is None, (Path(folder) / "log").read_text()
            yield port
        finally:
            process.kill()
            process.wait(STOP_S)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
