"""What makes a home a node's: its id, its token, its key. Each is a file that only its user can read."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cis.node.home import Home

_TEMPLATE = """\
# Settings of this node; every key is optional. 'cis config check' reports every fault at once.

[node]
id = "{node_id}"
# host = "127.0.0.1"
# port = 6767

# [worker]
# max_workers = 8
# slots = 4                       # tasks at once in one worker; default: twice the cores
# idle_timeout = "5m"
# pass_env = ["SSH_AUTH_SOCK"]    # of the node's environment, to tasks
"""


def ensure_toml(home: Home, *, node_id: str) -> bool:
    """Write a commented ``cis.toml`` unless there is one; return whether it was written."""
    return _write_once(home.toml, _TEMPLATE.format(node_id=node_id).encode())


def ensure_token(home: Home) -> str:
    """Return the node's token, made where there is none; two processes at once agree on one."""
    _write_once(home.token_file, f"{secrets.token_urlsafe(32)}\n".encode())
    return home.token_file.read_text(encoding="ascii").strip()


def rotate_token(home: Home) -> str:
    """Replace the node's token, at once, and return the new one."""
    token = secrets.token_urlsafe(32)
    fresh = _private(home.token_file, f"{token}\n".encode())
    fresh.replace(home.token_file)
    return token


def ensure_public_key(home: Home) -> str:
    """Return the node's Ed25519 public key as base64; the private one is made where there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 30 ms

    _write_once(home.key_file, base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()) + b"\n")
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(home.key_file.read_bytes()))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")


def _write_once(path: Path, data: bytes) -> bool:
    """Make a whole file appear at *path* unless one is there; return whether this one did."""
    if path.exists():
        return False
    fresh = _private(path, data)
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    return True


def _private(path: Path, data: bytes) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return fresh
