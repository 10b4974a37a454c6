"""What makes a home a node's: its id, its token, its key. Each is a file that only its user can read."""

from __future__ import annotations

from cis.node.files import replace_file, write_once
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

# [matrix]                        # see docs/howto/room.md
# homeserver = "https://matrix.example.org"
# user_id = "@{node_id}:example.org"
# access_token_file = "matrix.token"
# room_id = "!abc:example.org"    # 'cis room setup' makes one
"""


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


def ensure_public_key(home: Home) -> str:
    """Return the node's Ed25519 public key as base64; the private one is made where there is none."""
    from cis.node.keyfile import KeyFile  # noqa: PLC0415 - 30 ms

    return KeyFile(home.key_file).signer().public_key
