"""Settings: flag, then environment (``CIS_…``), then ``cis.toml``, then default; every fault is reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cis.errors import ConfigError, Fault
from cis.model.durations import parse_duration
from cis.model.ids import MAX_ID_LENGTH, id_fault
from cis.model.suggest import did_you_mean
from cis.node.home import Home

_SIZE = re.compile(r"\s*([0-9]+)\s*(B|KiB|MiB|GiB|KB|MB|GB)?\s*", re.IGNORECASE)
_SIZES = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a node, its workers and its commands; durations in seconds, sizes in bytes."""

    node_id: str
    host: str = "127.0.0.1"
    port: int = 6767
    labels: tuple[str, ...] = ()
    accept_broadcast: bool = True
    max_workers: int = 8
    slots: int = 2
    idle_timeout_s: float = 300.0
    grace_s: float = 10.0
    lease_s: float = 15.0
    max_log_bytes: int = 100 * 2**20
    pass_env: tuple[str, ...] = ()
    max_queued: int = 100_000

    def to_environ(self) -> dict[str, str]:
        """Return the variables under which another process comes to these very settings."""
        return {option.variable: option.write(getattr(self, option.field)) for option in OPTIONS}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string, and not empty")
    return value


def _id(value: Any) -> str:
    text = _text(value)
    fault = id_fault(text)
    if fault:
        raise ValueError(fault)
    return text


def _whole(value: Any, *, lowest: int, highest: int) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
        raise ValueError(f"must be a whole number from {lowest} to {highest}, not {value!r}")
    return number


def _port(value: Any) -> int:
    return _whole(value, lowest=0, highest=65535)


def _count(value: Any) -> int:
    return _whole(value, lowest=1, highest=1_000_000)


def _duration(value: Any) -> float:
    return parse_duration(value)


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds < 1:
        raise ValueError(f"must be at least 1 s, not {value!r}")
    return seconds


def _size(value: Any) -> int:
    match = _SIZE.fullmatch(str(value)) if not isinstance(value, bool) else None
    if match is None or not int(match[1]):
        raise ValueError(f"{value!r} is no size; write 500KiB, 100MiB or 1GiB")
    return int(match[1]) * _SIZES[(match[2] or "B").lower()]


def _truth(value: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in known:
        raise ValueError(f"must be true or false, not {value!r}")
    return known[str(value).lower()]


def _texts(value: Any) -> tuple[str, ...]:
    items = [item for item in value.split(",") if item] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) and item for item in items):
        raise ValueError("must be a list of strings")
    if any("," in item for item in items):
        raise ValueError("must be a list of strings without commas, which part them in a variable")
    return tuple(items)


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:.25f}".rstrip("0").rstrip(".")  # never 1e-05, which nobody writes and nothing here reads
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its place in ``cis.toml``, its variable, and how its value is read."""

    section: str
    key: str
    field: str
    read: Callable[[Any], Any]
    write: Callable[[Any], str] = _written

    @property
    def variable(self) -> str:
        """The environment variable, as ``CIS_MAX_WORKERS``; the node's id is ``CIS_NODE_ID``."""
        return "CIS_NODE_ID" if self.field == "node_id" else f"CIS_{self.key.upper()}"


OPTIONS = (
    Option("node", "id", "node_id", _id),
    Option("node", "host", "host", _text),
    Option("node", "port", "port", _port),
    Option("node", "labels", "labels", _texts),
    Option("node", "accept_broadcast", "accept_broadcast", _truth),
    Option("worker", "max_workers", "max_workers", _count),
    Option("worker", "slots", "slots", _count),
    Option("worker", "idle_timeout", "idle_timeout_s", _duration),
    Option("worker", "grace", "grace_s", _duration),
    Option("worker", "lease", "lease_s", _positive_duration),
    Option("worker", "max_log", "max_log_bytes", _size),
    Option("worker", "pass_env", "pass_env", _texts),
    Option("queue", "max_queued", "max_queued", _count),
)
_MATRIX_KEYS = ("homeserver", "user_id", "access_token_file", "room_id")
_ALLOW_KEYS = ("user_id", "may")
_RIGHTS = ("read", "execute", "control")


def default_node_id() -> str:
    """Return the host's name, made an id."""
    name = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", os.uname().nodename).strip("._-")[:MAX_ID_LENGTH]
    return name or "node-1"


def load_settings(home: Home, *, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Settings:
    """Return the settings; *flags* are by field name, and None means that a flag was not given.

    Raises:
        ConfigError: with every fault, and the place of each.
    """
    faults: list[Fault] = []
    tables = _read_toml(home, faults)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    values: dict[str, Any] = {"node_id": default_node_id(), "slots": 2 * (os.cpu_count() or 1)}
    for option in OPTIONS:
        table = tables.get(option.section)
        if option.field in given:
            place, raw = f"--{option.field.replace('_', '-')}", given[option.field]
        elif environ.get(option.variable):
            place, raw = option.variable, environ[option.variable]
        elif isinstance(table, dict) and option.key in table:
            place, raw = f"{home.toml.name}: {option.section}.{option.key}", table[option.key]
        else:
            continue
        try:
            values[option.field] = option.read(raw)
        except ValueError as error:
            faults.append(Fault(place=place, message=str(error)))
    if faults:
        raise ConfigError(faults)
    return Settings(**values)


def _read_toml(home: Home, faults: list[Fault]) -> dict[str, Any]:
    try:
        text = home.toml.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(place=str(home.toml), message=f"cannot be read: {error}"))
        return {}
    import tomllib  # noqa: PLC0415 - 4 ms, for those who have such a file

    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        faults.append(Fault(place=str(home.toml), message=f"is not TOML: {error}"))
        return {}
    known: dict[str, list[str]] = {"matrix": [*_MATRIX_KEYS, "allow"]}
    for option in OPTIONS:
        known.setdefault(option.section, []).append(option.key)
    for section, table in tables.items():
        if section not in known:
            faults.append(_unknown(home, section, known))
        elif not isinstance(table, dict):
            faults.append(Fault(place=f"{home.toml.name}: {section}", message=f"must be a table, [{section}]"))
        else:
            names = [key for key in table if key not in known[section]]
            faults.extend(_unknown(home, f"{section}.{key}", known[section]) for key in names)
    if isinstance(tables.get("matrix"), dict):
        faults.extend(_matrix_faults(home, tables["matrix"]))
    return tables


def _unknown(home: Home, name: str, known: Mapping[str, Any] | list[str]) -> Fault:
    hint = did_you_mean(name.rpartition(".")[2], known) or f"; known: {', '.join(known)}"
    return Fault(place=f"{home.toml.name}: {name}", message=f"is no setting{hint}")


def _matrix_faults(home: Home, matrix: Mapping[str, Any]) -> list[Fault]:
    here = f"{home.toml.name}: matrix"
    faults = [
        Fault(place=f"{here}.{key}", message="must be a string, and not empty")
        for key in _MATRIX_KEYS
        if key in matrix and not (isinstance(matrix[key], str) and matrix[key])
    ]
    allowed = matrix.get("allow", [])
    if not isinstance(allowed, list):
        return [*faults, Fault(place=f"{here}.allow", message="must be tables, [[matrix.allow]]")]
    for number, entry in enumerate(allowed):
        place = f"{here}.allow[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("user_id"), str):
            faults.append(Fault(place=place, message="needs user_id, as in @alice:example.org"))
            continue
        faults.extend(
            _unknown(home, f"matrix.allow[{number}].{key}", list(_ALLOW_KEYS))
            for key in entry
            if key not in _ALLOW_KEYS
        )
        may = entry.get("may", [])
        if not isinstance(may, list) or any(right not in _RIGHTS for right in may):
            faults.append(Fault(place=f"{place}.may", message=f"must be a list of {', '.join(_RIGHTS)}"))
    return faults
