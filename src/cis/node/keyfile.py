"""The node's key on disk: ``node.key``, mode 0600.

The first line is the private key, base64. Each further line is a succession, JSON, by which an earlier key handed over
to a later one (``cis.transports.keys``).
"""

from __future__ import annotations

import json
from pathlib import Path

from cis.errors import ConfigError, Fault
from cis.node.identity import replace_file, write_once
from cis.transports.keys import MAX_SUCCESSIONS, Signer, Succession, new_private_key


class KeyFile:
    """Reads the key again whenever the file changed, so that a new key needs no restart."""

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
            write_once(self._path, f"{new_private_key()}\n".encode())
            status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._signer is None or stamp != self._stamp:
            self._signer, self._stamp = _read(self._path), stamp
        return self._signer

    def rotate(self, node_id: str) -> Signer:
        """Replace the key by a new one, which the old one signs; peers that trusted the old one follow."""
        old = self.signer()
        private = new_private_key()
        succession = old.hand_over(node_id, Signer(private).public_key)
        successions = (*old.successions, succession)[-MAX_SUCCESSIONS:]
        lines = [private, *(json.dumps(one.to_dict()) for one in successions)]
        replace_file(self._path, "".join(f"{line}\n" for line in lines).encode())
        return self.signer()


def _read(path: Path) -> Signer:
    try:
        private, *rest = path.read_text(encoding="ascii").split("\n")
        return Signer(private.strip(), successions=[Succession(**json.loads(line)) for line in rest if line])
    except (OSError, ValueError, TypeError) as error:
        mend = "put the file back from a backup, or delete it: a new key has to be trusted anew by every peer"
        raise ConfigError([Fault(place=str(path), message=f"holds no key ({error}); {mend}")]) from error
