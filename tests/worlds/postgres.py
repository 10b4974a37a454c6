"""A real PostgreSQL of the tests' own: Debian's programs, as a user without rights, on a free port of loopback, with fsync."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
import pytest

from cis.store.opening import Shared, open_store

USER = "cis"
START_S = 30.0
STOP_S = 20.0
UNPRIVILEGED = "nobody"
TEMPLATE = "empty"


@dataclass
class PostgresServer:
    """A server; each test gets a database of its own, as a copy of one that has the schema."""

    programs: Path
    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self, *, template: str = TEMPLATE) -> Iterator[str]:
        """Give the address of a new database with the newest schema, or as another *template* is; it goes at the end."""
        name = f"test_{next(self._numbers)}"
        self.run_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.run_sql(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def databases(self, count: int) -> Iterator[list[str]]:
        """Give the addresses of *count* new databases."""
        with ExitStack() as ends:
            yield [ends.enter_context(self.database()) for _ in range(count)]

    def run_sql(self, statement: str) -> None:
        """Run a statement of the tests' own, as the administrator."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o", settings, "start")

    def stop(self, *, mode: str = "immediate") -> None:
        """Stop the server: smart, fast, or immediate, which leaves it as after a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", str(round(STOP_S)), "-m", mode, "stop")

    @property
    def data(self) -> Path:
        """The server's files."""
        return self.folder / "data"

    def make(self) -> None:
        """Make the server's files, start it, and make the database that others are copies of."""
        # No flush now: whatever is lost with the machine is lost to the tests as well.
        self._run("initdb", "-D", str(self.data), "-U", USER, "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync")
        self.start()
        self.run_sql(f"CREATE DATABASE {TEMPLATE}")
        open_store(Shared(self.url(TEMPLATE), self.folder)).close()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        with (self.folder / "output").open("a") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=START_S,
                user=UNPRIVILEGED if os.geteuid() == 0 else None,
                group=pwd.getpwnam(UNPRIVILEGED).pw_gid if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
                cwd=self.folder,
            )
        if done.returncode:
            raise AssertionError(f"{program} failed:\n{(self.folder / 'output').read_text()[-2000:]}")


def programs() -> Path | None:
    """Return the folder of the newest server's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parents[1].name))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Give a server, which is stopped at the end; without its programs the test fails in CI, and is skipped elsewhere.

    It is in a folder of its own: pytest's are closed to the other user. Like those it is in memory, where there is room.
    """
    where = programs()
    if where is None:
        message = "PostgreSQL's server is not installed (Debian: see requirements/debian.txt)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where_to = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    with tempfile.TemporaryDirectory(prefix="cis-postgres-", dir=where_to, ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED)
        server = PostgresServer(where, Path(folder), port)
        server.make()
        try:
            yield server
        finally:
            server.stop()
