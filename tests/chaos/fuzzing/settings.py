"""Settings, keys and the small notations of people, made to hurt: each is read, or refused in our own words."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

from cis.errors import CisError
from cis.model.durations import format_duration, parse_duration
from cis.model.references import NoValueError, fill, malformed, references
from cis.model.scope import parse_scope, parse_worker_id
from cis.node.home import Home
from cis.node.identity import KeyFile, set_text
from cis.node.settings import OPTIONS, load_settings
from cis.transports.keys import Signer, new_private_key
from tests.chaos.fuzzing.trees import SCALARS, changed


def check_settings(home: Home, chance: Random) -> bool:
    """Return whether settings that chance made are taken; what is taken is what is written down again."""
    home.toml.write_bytes(_toml(chance))
    environ = {}
    if chance.random() < 0.3:
        option = chance.choice(OPTIONS)
        environ[option.variable] = str(chance.choice(SCALARS[:-12]))
    try:
        found = load_settings(home, environ=environ)
    except CisError:
        return False
    assert load_settings(home, environ={**environ, **found.to_environ()}) == found
    return True


def check_set_text(home: Home, chance: Random) -> bool:
    """Return whether one value could be set in a file that chance made; then it stands there."""
    home.toml.write_bytes(_toml(chance))
    value = chance.choice(("@a:b", "!r:x", "a\nb", '"', "\\", "é", "\x7f"))
    with suppress(CisError, UnicodeDecodeError):
        set_text(home.toml, section="matrix", key="room_id", value=value)
        return True
    return False


def check_key(path: Path, chance: Random) -> bool:
    """Return whether a key file that chance damaged still holds a key."""
    old = Signer(new_private_key())
    private = new_private_key()
    succession = old.hand_over("node-1", Signer(private).public_key).to_dict()
    lines = [private, json.dumps(changed(succession, chance) if chance.random() < 0.5 else succession)]
    data = "\n".join(lines).encode() + b"\n"
    at = chance.randint(0, len(data))
    path.unlink(missing_ok=True)
    path.write_bytes(
        chance.choice((data, data[:at], data[:at] + b"\xff" + data[at:], b"", data[:at] + b"\n" + data[at:]))
    )
    try:
        KeyFile(path).signer()
    except CisError:
        return False
    return True


def check_words(chance: Random) -> None:
    """Read what people write in one line, in every way that there is: a value, or a ValueError that says why not."""
    text = chance.choice(SCALARS)
    if isinstance(text, str) and chance.random() < 0.7:
        other = str(chance.choice(("5m", "project:p", "worker-user-x", "${tasks.a.outputs.x}", "global", "1.5h")))
        at = chance.randint(0, len(other))
        text = other[:at] + text + other[at:]
    with suppress(ValueError):
        assert format_duration(parse_duration(text))
    if not isinstance(text, str):
        return
    for read, shown in _NAMES:
        with suppress(ValueError):
            assert shown(read(text)) == text
    assert all(part in text for part in malformed(text))
    with suppress(NoValueError):
        filled = fill(text, lambda _: "")
        assert list(references(filled)) == [] or "${" in text


_NAMES: tuple[tuple[Callable[[str], Any], Callable[[Any], str]], ...] = (
    (parse_scope, str),
    (parse_worker_id, lambda scope: scope.worker_id),
)


def _toml(chance: Random) -> bytes:
    tables: dict[str, Any] = {}
    for option in chance.sample(OPTIONS, chance.randint(0, 4)):
        good = {"node_id": "node-1", "labels": ["gpu"], "port": 7000, "host": "127.0.0.1", "lease_s": "30s"}
        tables.setdefault(option.section, {})[option.key] = good.get(option.field, chance.choice(SCALARS))
    if chance.random() < 0.2:
        tables.setdefault("matrix", {})["allow"] = [{"user_id": "@a:b", "may": ["read"]}]
    tables = changed(tables, chance, times=chance.choice((0, 0, 1, 2))) if tables else tables
    try:
        data = tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError, RecursionError):
        data = b"[node]\nid = 7\n" + base64.b64encode(chance.randbytes(9)) + b"\n"
    at = chance.randint(0, len(data))
    return (
        data if chance.random() < 0.7 else data[:at] + chance.choice((b"\xff", b"\0", b"[", b'"', b"\n=")) + data[at:]
    )
