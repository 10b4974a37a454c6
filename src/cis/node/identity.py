"""What makes a home a node's: its settings, its token, its key, each a private file.

A file is whole or not there at all, whoever else writes it at the same moment. Setting one value in ``cis.toml`` leaves
alone what its owner wrote around it.

The first line of ``node.key`` is the private key, base64. Each further line is a succession, JSON, by which an earlier
key handed over to a later one (``cis.transports.keys``, which takes 30 ms to import: only who signs waits for it). The
public key stands in ``node.pub``, behind what tells of which state of ``node.key`` it is; of another it counts nothing.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cis.errors import ConfigError, Fault
from cis.node.home import Home

if TYPE_CHECKING:
    from cis.transports.keys import Signer

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

# [matrix]                        # see docs/howto/room.md
# homeserver = "https://matrix.example.org"
# user_id = "@{node_id}:example.org"
# access_token_file = "matrix.token"
# room_id = "!abc:example.org"    # 'cis room setup' makes one
"""


def write_once(path: Path, data: bytes) -> bool:
    """Make a whole file, mode 0600, appear at *path* unless one is there; return whether this one did."""
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
    _sync_folder(path.parent)
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Put a whole file, mode 0600, in place of the one at *path*."""
    fresh = _private(path, data)
    try:
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _private(path: Path, data: bytes) -> Path:
    import secrets  # noqa: PLC0415 - 4 ms, and most commands write no such file

    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            written = 0
            while written < len(data):  # a disk that is nearly full takes a part
                written += file.write(data[written:])
            os.fsync(descriptor)
    except OSError as error:
        fresh.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    return fresh


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk: a token that was replaced must not come back with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_text(path: Path, *, section: str, key: str, value: str) -> None:
    """Set ``key`` of ``[section]`` to a string, in place of its line, or as the first of its section.

    Raises:
        ConfigError: the file is no TOML, or writes the key in a way that is not to be seen line by line.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.splitlines()
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    start = next((number for number, one in enumerate(lines) if _heads(one, section)), None)
    if start is None:
        lines += ["", f"[{section}]", line] if lines else [f"[{section}]", line]
    else:
        end = next((n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        place = next((n for n in range(start + 1, end) if re.match(rf"\s*{re.escape(key)}\s*=", lines[n])), None)
        if place is None:
            lines.insert(start + 1, line)
        else:
            lines[place] = line
    import tomllib  # noqa: PLC0415 - 4 ms, for those who change a setting

    fresh = "\n".join(lines) + "\n"
    try:
        written = tomllib.loads(fresh).get(section, {}).get(key)
    except (ValueError, AttributeError):
        written = None
    if written != value:
        message = f"cannot be changed by a program; write {line} into [{section}] by hand"
        raise ConfigError([Fault(place=f"{path}: {section}.{key}", message=message)])
    replace_file(path, fresh.encode())


def _heads(line: str, section: str) -> bool:
    return re.match(rf"\s*\[\s*{re.escape(section)}\s*\]", line) is not None


def ensure_toml(home: Home, *, node_id: str) -> bool:
    """Write a commented ``cis.toml`` unless there is one; return whether it was written."""
    return write_once(home.toml, _TEMPLATE.format(node_id=node_id).encode())


def ensure_token(home: Home) -> str:
    """Return the node's token, made where there is none; two processes at once agree on one."""
    write_once(home.token_file, f"{new_token()}\n".encode())
    return home.token_file.read_text(encoding="ascii").strip()


def new_token() -> str:
    """Return a token that nobody can guess."""
    import secrets  # noqa: PLC0415 - 4 ms, and most commands make none

    return secrets.token_urlsafe(32)


def rotate_token(home: Home) -> str:
    """Replace the node's token, at once, and return the new one."""
    token = new_token()
    replace_file(home.token_file, f"{token}\n".encode())
    return token


class KeyFile:
    """The node's key on disk; it is read again whenever the file changed, so that a new key needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._signer: Signer | None = None

    def signer(self) -> Signer:
        """Return the key; it is made where there is none.

        Raises:
            ConfigError: the file cannot be read, or holds no key.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            from cis.transports.keys import new_private_key  # noqa: PLC0415 - 30 ms

            write_once(self._path, f"{new_private_key()}\n".encode())
            status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._signer is None or stamp != self._stamp:
            self._signer, self._stamp = _read(self._path), stamp
        return self._signer

    def rotate(self, node_id: str) -> Signer:
        """Replace the key by a new one, which the old one signs; peers that trusted the old one follow."""
        from cis.transports.keys import MAX_SUCCESSIONS, Signer, new_private_key  # noqa: PLC0415 - 30 ms

        old = self.signer()
        private = new_private_key()
        succession = old.hand_over(node_id, Signer(private).public_key)
        successions = (*old.successions, succession)[-MAX_SUCCESSIONS:]
        lines = [private, *(json.dumps(one.to_dict()) for one in successions)]
        replace_file(self._path, "".join(f"{line}\n" for line in lines).encode())
        return self.signer()


def _read(path: Path) -> Signer:
    from cis.transports.keys import Signer, Succession  # noqa: PLC0415 - 30 ms

    try:
        private, *rest = path.read_text(encoding="ascii").split("\n")
        return Signer(private.strip(), successions=[Succession(**json.loads(line)) for line in rest if line])
    except (OSError, ValueError, TypeError) as error:
        mend = "put the file back from a backup, or delete it: a new key has to be trusted anew by every peer"
        raise ConfigError([Fault(place=str(path), message=f"holds no key ({error}); {mend}")]) from error


def ensure_public_key(home: Home) -> str:
    """Return the node's Ed25519 public key as base64; the private one is made where there is none."""
    key, kept = home.key_file, home.key_file.with_suffix(".pub")
    with suppress(OSError, ValueError):
        state, public_key = kept.read_text(encoding="ascii").split()
        if state == _state(key):
            return public_key
    keys = KeyFile(key)
    keys.signer()  # there is a file now
    state, public_key = (
        _state(key),
        keys.signer().public_key,
    )  # in this order: should it change, no state is given its key
    with suppress(OSError):  # a full disk, or one that is only read: it is found out again the next time
        replace_file(kept, f"{state} {public_key}\n".encode())
    return public_key


def _state(path: Path) -> str:
    """Return what no other file, and no other content of this one, has: nobody can set the time of a change."""
    status = path.stat()
    return f"{status.st_ino}.{status.st_ctime_ns}.{status.st_size}"
