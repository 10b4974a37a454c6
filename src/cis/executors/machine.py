"""Which machine this is: a text that stays the same for as long as the system is installed on it.

A container has no machine of its own: it is made anew over the same volume, on another host too, and its image may bring
a ``machine-id`` along. It is told by what the programs that make containers leave in them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cis.engine.shortage import shortage_of

# Docker; Podman; any with systemd in it.
_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")
# systemd-nspawn, Podman and LXC; Kubernetes, whose runtimes leave no mark.
_VARIABLES = ("container", "KUBERNETES_SERVICE_HOST")
_CGROUPS = re.compile(r"docker|kubepods|containerd|libpod|lxc")
_OVERLAYS = ("overlay", "fuse-overlayfs")
_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
_KEY = b"cis-dag home"
_UUID = re.compile(r'"IOPlatformUUID" = "([^"]+)"')


def machine_id(*, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> str:
    """Return what names this machine; empty in a container, or where nothing does.

    It is made from the system's own id, which is not to be shown to others (machine-id(5)).
    """
    if in_container(root=root, environ=environ):
        return ""
    for name in _IDS:
        found = _text(root / name).strip()
        if found and found != "uninitialized":
            return _hidden(found)
    return _hidden(_platform_uuid()) if os.uname().sysname == "Darwin" else ""


def in_container(*, root: Path, environ: Mapping[str, str]) -> bool:
    """Whether the system below *root* is a container: by its marks, its control group, or the kind of its file system."""
    if any((root / mark).exists() for mark in _MARKS) or any(environ.get(name) for name in _VARIABLES):
        return True
    return bool(_CGROUPS.search(_text(root / "proc/1/cgroup"))) or _root_is_overlay(_text(root / "proc/self/mountinfo"))


def _root_is_overlay(mounts: str) -> bool:
    # proc(5): "36 35 98:0 / WHERE options … - TYPE source options"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4:5] == ["/"] and after.split()[:1] in ([one] for one in _OVERLAYS):
            return True
    return False


def _platform_uuid() -> str:
    try:
        answer = subprocess.run(
            ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    match = _UUID.search(answer.stdout)
    return match[1] if match else ""


def _hidden(system_id: str) -> str:
    import hashlib  # noqa: PLC0415 - only who acts asks

    return hashlib.blake2b(system_id.encode(), key=_KEY, digest_size=16).hexdigest() if system_id else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if shortage_of(error) is not None:
            raise
        return ""
