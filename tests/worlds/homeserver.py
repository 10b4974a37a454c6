"""A real homeserver for tests: Synapse, in a virtual environment of its own that is made once and kept.

Synapse is AGPL and never a dependency of the product. ``python -m tests.worlds.homeserver`` prepares it and says where.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.worlds.waiting import wait_for

SYNAPSE_VERSION = "1.163.2"
SERVER_NAME = "cis.test"
PASSWORD = "password-of-a-test"
DEVICE_ID = "CIS"
INSTALL_TIMEOUT_S = 600.0
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

Limits = Literal["none", "default"]

# Ends with its parent, however that ended: the pipe closes, and a homeserver is left to nobody.
_BOOTSTRAP = """
import os, runpy, sys, threading
def watch():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
sys.argv = ["synapse", *sys.argv[1:]]
runpy.run_module("synapse.app.homeserver", run_name="__main__")
"""
_LIMITS = (
    "rc_message",
    "rc_registration",
    "rc_joins_per_room",
    "rc_room_creation",
    "rc_3pid_validation",
    "rc_media_create",
    "rc_profile",
)
_NESTED_LIMITS = {
    "rc_login": ("address", "account", "failed_attempts"),
    "rc_joins": ("local", "remote"),
    "rc_invites": ("per_room", "per_user", "per_issuer"),
}
_LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "disable_existing_loggers": False,
}
_LOGGING["root"] = {"level": "WARNING", "handlers": ["console"]}


class SynapseMissingError(Exception):
    """Synapse cannot be installed here; the message is what pip said."""


def synapse_python() -> Path:
    """Return the Python of the kept environment, which is made first if need be.

    Where it cannot be made, the test fails in CI (the variable ``CI`` is set) and is skipped elsewhere.
    """
    try:
        return prepared()
    except SynapseMissingError as error:
        message = f"no homeserver to test against: {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def prepared(say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the Python of the kept environment; one process makes it, others wait for that.

    Raises:
        SynapseMissingError: it cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cis-dag"
    folder = cache / f"synapse-{SYNAPSE_VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if python.exists():
        return python
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with folder.with_name(folder.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not python.exists():
                say(f"Making {folder}: once, some 20 s, 240 MB")
                _make(folder)
    except (OSError, subprocess.SubprocessError) as error:
        raise SynapseMissingError(f"no virtual environment can be made: {error}") from error
    return python


def _make(folder: Path) -> None:
    for left in [folder, *folder.parent.glob(f"{folder.name}.partial-*")]:  # of a Python that is no more; of a kill
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")  # the pip of a killed maker may still write
    try:
        venv.create(partial, with_pip=True, symlinks=True)
        _pip_install(partial / "bin" / "python", f"matrix-synapse=={SYNAPSE_VERSION}")
        partial.rename(folder)  # its scripts name the old folder; `python -m` is all that is used
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip_install(python: Path, requirement: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
    done = subprocess.run(
        [*command, requirement],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_S,
    )
    if done.returncode:
        raise SynapseMissingError(f"pip install {requirement}: {done.stderr.strip()[-500:]}")


class Homeserver:
    """One Synapse on a loopback port of its own, with SQLite in *folder*; restarts keep port and data."""

    def __init__(self, folder: Path, *, limits: Limits = "none") -> None:
        self.folder = folder
        self.limits: Limits = limits
        self.port = _free_port()
        self._python = synapse_python()
        self._secret = os.urandom(16).hex()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        seed = base64.b64encode(os.urandom(32)).decode().rstrip("=")
        (folder / "signing.key").write_text(f"ed25519 a_test {seed}\n")
        (folder / "secret").write_text(self._secret)
        (folder / "logging.yaml").write_text(json.dumps(_LOGGING))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_text(self) -> str:
        """What Synapse wrote, warnings and worse."""
        return (self.folder / "synapse.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None, "it runs"
        (self.folder / "homeserver.yaml").write_text(json.dumps(self._config(), indent=1))
        with (self.folder / "synapse.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._python), "-c", _BOOTSTRAP, "-c", str(self.folder / "homeserver.yaml")],
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, timeout_s=START_TIMEOUT_S, what="Synapse to answer")

    def stop(self) -> None:
        """End it in good order (TERM)."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """End it as a crash would (KILL)."""
        self._end(lambda process: process.kill())

    def restart(self, *, limits: Limits | None = None) -> None:
        """Stop and start it, with other limits if so wished."""
        self.stop()
        self.limits = limits or self.limits
        self.start()

    def register(self, user: str, *, admin: bool = False) -> tuple[str, str]:
        """Make the user ``@user:cis.test``; return its id and the access token of the device ``CIS``."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as client:
            nonce = client.get("/_synapse/admin/v1/register").raise_for_status().json()["nonce"]
            kind = "admin" if admin else "notadmin"
            signed = f"{nonce}\0{user}\0{PASSWORD}\0{kind}"
            mac = hmac.new(self._secret.encode(), signed.encode(), hashlib.sha1).hexdigest()
            body = {"nonce": nonce, "username": user, "password": PASSWORD, "admin": admin, "mac": mac}
            answer = client.post("/_synapse/admin/v1/register", json={**body, "device_id": DEVICE_ID})
            made = answer.raise_for_status().json()
        return made["user_id"], made["access_token"]

    def _answers(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"Synapse ended with {status}: {self.log_text[-2000:]}"
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        how(process)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        finally:
            if process.stdin is not None:
                process.stdin.close()

    def _config(self) -> dict[str, Any]:
        folder = self.folder
        return {
            "server_name": SERVER_NAME,
            "public_baseurl": self.url,
            "listeners": [
                {
                    "port": self.port,
                    "type": "http",
                    "tls": False,
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client"]}],
                }
            ],
            "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
            "media_store_path": str(folder / "media"),
            "signing_key_path": str(folder / "signing.key"),
            "registration_shared_secret_path": str(folder / "secret"),
            "log_config": str(folder / "logging.yaml"),
            "enable_registration": False,
            "federation_domain_whitelist": [],
            "trusted_key_servers": [],
            "presence": {"enabled": False},
            "report_stats": False,
            "bcrypt_rounds": 4,
            **(_no_limits() if self.limits == "none" else {}),
        }


@contextmanager
def running_homeserver(folder: Path, *, limits: Limits = "none") -> Iterator[Homeserver]:
    """Run a homeserver while the block lasts."""
    homeserver = Homeserver(folder, limits=limits)
    try:
        homeserver.start()
        yield homeserver
    finally:
        homeserver.kill()  # nobody needs its data any more


def _no_limits() -> dict[str, Any]:
    much = {"per_second": 100_000, "burst_count": 100_000}
    nested = {name: dict.fromkeys(parts, much) for name, parts in _NESTED_LIMITS.items()}
    return {**dict.fromkeys(_LIMITS, much), **nested}


def _free_port() -> int:
    """Return a port below those that systems lend to clients, so that none takes it while the homeserver is down."""
    for port in random.sample(range(15_000, 30_000), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free between 15000 and 30000")


def main() -> int:
    """Prepare the environment; print the path of its Python."""
    try:
        print(prepared(lambda line: print(line, file=sys.stderr)))  # noqa: T201 - what this command is for
    except SynapseMissingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the same
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
