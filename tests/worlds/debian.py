"""Debian's packages that tests need (``requirements/debian.txt``): installed once, where this user may.

``python -m tests.worlds.debian`` does nothing where all are there. A test asks for a program with ``program``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

LISTED = Path(__file__).parents[2] / "requirements" / "debian.txt"
DOWNLOAD_TIMEOUT_S = 120.0
UNPACK_TIMEOUT_S = 300.0
# Read by postgresql-common when a server's package is configured; it need not be installed yet.
CLUSTERS = Path("/etc/postgresql-common/createcluster.d")
POLICY = Path("/usr/sbin/policy-rc.d")
LOCK = Path("/run/cis-dag-tests.lock")  # in a folder of root's: nobody else can have made it
APT = ("apt-get", "--quiet=2", "--option=Acquire::Retries=3", "--option=DPkg::Lock::Timeout=120")


class PackagesMissingError(Exception):
    """Packages cannot be installed here; the message is why."""


def program(name: str) -> str:
    """Return the path of a program of these packages; without it the test fails in CI and is skipped elsewhere."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian: see requirements/debian.txt)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def listed() -> list[str]:
    """Return the names of the packages."""
    lines = (line.partition("#")[0].strip() for line in LISTED.read_text().splitlines())
    return [line for line in lines if line]


def missing() -> list[str]:
    """Return which of the packages are not installed, as dpkg knows them: all of them where there is no dpkg."""
    wanted = listed()
    asked = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *wanted]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=DOWNLOAD_TIMEOUT_S)
    except FileNotFoundError:
        return wanted
    return [name for name in wanted if f"{name} installed" not in done.stdout.splitlines()]


def install() -> None:
    """Install what is missing; one process does, others wait for it.

    Raises:
        PackagesMissingError: not root, not Debian, or apt-get failed or took too long.
    """
    if not missing():
        return
    if shutil.which("apt-get") is None:
        raise PackagesMissingError("there is no apt-get")
    if os.geteuid() != 0:
        raise PackagesMissingError("only root may install packages")
    try:
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if names := missing():
                say(f"Installing Debian packages for tests: {', '.join(names)}")
                with _no_cluster() if "postgresql" in names else nullcontext(), _no_service():
                    _install(names)
    except OSError as error:
        raise PackagesMissingError(str(error)) from error


def _install(names: list[str]) -> None:
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    with suppress(PackagesMissingError):  # old lists may do, and so may one source of several
        _apt("update", deadline=deadline)
    wanted = ("install", "--yes", "--no-install-recommends", *names)
    _apt(*wanted, "--download-only", deadline=deadline)
    _apt(*wanted, "--no-download", deadline=time.monotonic() + UNPACK_TIMEOUT_S)


def _apt(*arguments: str, deadline: float) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    left = max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(
            [*APT, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=left,
        )
    except subprocess.TimeoutExpired as error:
        raise PackagesMissingError(f"apt-get {arguments[0]} took more than {left:.0f} s") from error
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise PackagesMissingError(f"apt-get {arguments[0]}: {reason[-500:]}")


@contextmanager
def _no_cluster() -> Iterator[None]:
    """Have PostgreSQL's package make no cluster of its own, and so start no server; later packages are as they were."""
    made = CLUSTERS / "cis-dag-tests.conf"
    CLUSTERS.mkdir(parents=True, exist_ok=True)
    made.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _no_service() -> Iterator[None]:
    """Have no package start a service, as Debian's invoke-rc.d(8) lets an administrator say."""
    try:
        with POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    except FileExistsError:  # the administrator has said what may start
        yield
        return
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def say(line: str) -> None:
    """Tell whoever runs the tests; standard output is what they ask for."""
    print(line, file=sys.stderr)  # noqa: T201 - what this command is for


def main() -> int:
    """Install what is missing, or say in one line what is not there and why."""
    try:
        install()
    except PackagesMissingError as error:
        names = " ".join(missing())
        say(f"Tests that need {names} are skipped: {error}. As root: apt-get install --no-install-recommends {names}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
