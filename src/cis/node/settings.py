"""Settings: flag, then environment (``CIS_…``), then ``cis.toml``, then default; every fault is reported at once."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cis.engine.times import DELIVER_WITHIN_S, LEASE_S
from cis.errors import ConfigError, Fault, NodeIdKeptError
from cis.model.ids import MAX_ID_LENGTH, did_you_mean
from cis.model.scope import Scope
from cis.model.scope_rules import Patterns, ScopeRules, ScopeTable, rules_of
from cis.node.home import Home
from cis.node.setting_values import (
    address,
    age,
    count,
    duration,
    identifier,
    lease,
    matrix_user,
    nice,
    nonempty,
    port,
    positive_duration,
    recursion,
    room,
    runs,
    size,
    store_address,
    texts,
    truth,
    utf8,
    written,
)
from cis.node.tables import SCOPE_SECTION, SECTION, patterns_of, scope_tables, table_faults


class Allowed(NamedTuple):
    """A person who may write ``!dag`` in the room, what that person may do, and in which scopes (None: in all)."""

    user_id: str
    may: tuple[str, ...]
    scopes: Patterns | None = None


class Settings(NamedTuple):
    """The settings of a node, its workers and its commands; durations in seconds, sizes in bytes."""

    node_id: str
    host: str = "127.0.0.1"
    port: int = 6767
    labels: tuple[str, ...] = ()
    accept_broadcast: bool = True
    max_tasks: int | None = None
    max_workers: int = 8
    slots: int = 2
    idle_timeout_s: float = 300.0
    grace_s: float = 10.0
    lease_s: float = 15.0
    max_log_bytes: int = 100 * 2**20
    nice: int = 7
    pass_env: tuple[str, ...] = ()
    max_queued: int = 100_000
    max_descendants: int = 10_000
    max_recursion: int = 0
    max_age_s: float | None = None
    max_runs: int | None = 10_000
    max_log_age_s: float | None = 90 * 86400.0
    prune_every_s: float = 300.0
    store: str = "sqlite"
    url: str | None = None
    deliver_within_s: float = DELIVER_WITHIN_S
    homeserver: str | None = None
    matrix_user: str | None = None
    access_token_file: str = "matrix.token"  # noqa: S105 - a file's name
    room_id: str | None = None
    room_lease_s: float = LEASE_S
    fall_back_after_s: float = 30.0
    allow: tuple[Allowed, ...] = ()
    scopes: tuple[ScopeTable, ...] = ()

    def rules_of(self, scope: Scope) -> ScopeRules:
        """Return what the tables ``[scope."…"]`` say of a scope."""
        return rules_of(self.scopes, scope)

    @property
    def tasks_at_once(self) -> int:
        """Tasks that may run at once on this machine: unless told, 4 a core, and one more than any scope may."""
        if self.max_tasks is not None:
            return self.max_tasks
        slots = [self.slots, *(table.rules.slots or 0 for table in self.scopes)]
        return max(4 * (os.cpu_count() or 1), 1 + max(slots))

    @property
    def has_room(self) -> bool:
        """Whether a room is configured: DAGs that name no node are offered in it."""
        return self.homeserver is not None and self.matrix_user is not None and self.room_id is not None

    def to_environ(self) -> dict[str, str]:
        """Return the variables under which another process comes to these very settings."""
        values = ((option, getattr(self, option.field)) for option in OPTIONS)
        return {
            option.variable: option.write(value) for option, value in values if value is not None or option.unbounded
        }


class Option(NamedTuple):
    """One setting: its place in ``cis.toml``, its variable, and how its value is read."""

    section: str
    key: str
    field: str
    read: Callable[[Any], Any]
    write: Callable[[Any], str] = written
    unbounded: bool = False  # None is a value of its own, and is written so

    @property
    def variable(self) -> str:
        """The environment variable, as ``CIS_MAX_WORKERS``; the node's id and the room's settings say so in theirs."""
        section = f"{self.section.upper()}_" if self.key == "id" or self.section == "matrix" else ""
        return f"CIS_{section}{self.key.upper()}"


OPTIONS = (
    Option("node", "id", "node_id", identifier),
    Option("node", "host", "host", nonempty),
    Option("node", "port", "port", port),
    Option("node", "labels", "labels", texts),
    Option("node", "accept_broadcast", "accept_broadcast", truth),
    Option("node", "max_tasks", "max_tasks", count),
    Option("node", "store", "store", store_address),
    Option("node", "url", "url", address),
    Option("node", "deliver_within", "deliver_within_s", positive_duration),
    Option("worker", "max_workers", "max_workers", count),
    Option("worker", "slots", "slots", count),
    Option("worker", "idle_timeout", "idle_timeout_s", duration),
    Option("worker", "grace", "grace_s", duration),
    Option("worker", "lease", "lease_s", positive_duration),
    Option("worker", "max_log", "max_log_bytes", size),
    Option("worker", "nice", "nice", nice),
    Option("worker", "pass_env", "pass_env", texts),
    Option("queue", "max_queued", "max_queued", count),
    Option("queue", "max_descendants", "max_descendants", count),
    Option("queue", "max_recursion", "max_recursion", recursion),
    Option("retention", "max_age", "max_age_s", age, unbounded=True),
    Option("retention", "max_runs", "max_runs", runs, unbounded=True),
    Option("retention", "max_log_age", "max_log_age_s", age, unbounded=True),
    Option("retention", "prune_every", "prune_every_s", positive_duration),
    Option("matrix", "homeserver", "homeserver", address),
    Option("matrix", "user_id", "matrix_user", matrix_user),
    Option("matrix", "access_token_file", "access_token_file", nonempty),
    Option("matrix", "room_id", "room_id", room),
    Option("matrix", "lease", "room_lease_s", lease),
    Option("matrix", "fall_back_after", "fall_back_after_s", positive_duration),
)
_ALLOW_KEYS = ("user_id", "may", "scopes")
_RIGHTS = ("read", "execute", "control")


def default_node_id() -> str:
    """Return the host's name, made an id."""
    name = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", os.uname().nodename).strip("._-")[:MAX_ID_LENGTH]
    return name or "node-1"


def load_settings(home: Home, *, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Settings:
    """Return the settings; *flags* are by field name, and None means that a flag was not given.

    Raises:
        ConfigError: with every fault, and the place of each.
        NodeIdKeptError: a flag or the variable says another node id than the home has kept.
    """
    faults: list[Fault] = []
    tables = _read_toml(home, faults)
    scopes, wrong = scope_tables(tables.pop(SCOPE_SECTION, {}), file=home.toml.name)
    faults += wrong
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    values: dict[str, Any] = {"slots": 2 * (os.cpu_count() or 1)}
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
            values[option.field] = option.read(utf8(raw))
        except ValueError as error:
            faults.append(Fault(place=place, message=str(error)))
    values["allow"] = _allowed(home, tables.get("matrix"), faults)
    values["scopes"] = scopes
    if faults:
        raise ConfigError(faults)
    values["node_id"] = _node_id(home, values.get("node_id"), given=given, environ=environ, tables=tables)
    return Settings(**values)


def _node_id(
    home: Home, said: str | None, *, given: Mapping[str, object], environ: Mapping[str, str], tables: Mapping[str, Any]
) -> str:
    """Return the node's id: what is *said*, else what the home has kept, else the host's name.

    Raises:
        NodeIdKeptError: a flag or the variable says another one than the home has kept.
    """
    in_toml = tables.get("node", {}).get("id")
    place = "--node-id" if "node_id" in given else "CIS_NODE_ID" if environ.get("CIS_NODE_ID") else None
    if said is not None and said == in_toml:
        return said
    from cis.store import kept_node_id  # noqa: PLC0415 - not where cis.toml says it

    kept = kept_node_id(home.store)
    if said is None:
        return kept or default_node_id()
    if place is not None and kept not in (None, said):
        raise NodeIdKeptError(said, place=place, kept=kept)
    return said


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
    faults += (
        Fault(place=f"{home.toml.name}: {SECTION}{name and '.'}{name}", message=message)
        for name, message in table_faults(tables.pop(SECTION, {}))
    )
    known: dict[str, list[str]] = {"matrix": ["allow"]}
    for option in OPTIONS:
        known.setdefault(option.section, []).append(option.key)
    for section, table in tables.items():
        if section == SCOPE_SECTION:
            continue  # it has a reader of its own
        if section not in known:
            faults.append(_unknown(home, section, [*known, SECTION, SCOPE_SECTION]))
        elif not isinstance(table, dict):
            faults.append(Fault(place=f"{home.toml.name}: {section}", message=f"must be a table, [{section}]"))
        else:
            names = [key for key in table if key not in known[section]]
            faults.extend(_unknown(home, f"{section}.{key}", known[section]) for key in names)
    return tables


def _unknown(home: Home, name: str, known: Mapping[str, Any] | list[str]) -> Fault:
    hint = did_you_mean(name.rpartition(".")[2], known) or f"; known: {', '.join(known)}"
    return Fault(place=f"{home.toml.name}: {name}", message=f"is not a setting{hint}")


def _allowed(home: Home, matrix: Any, faults: list[Fault]) -> tuple[Allowed, ...]:
    here = f"{home.toml.name}: matrix.allow"
    listed = matrix.get("allow", []) if isinstance(matrix, dict) else []
    if not isinstance(listed, list):
        faults.append(Fault(place=here, message="must be tables, [[matrix.allow]]"))
        return ()
    found = []
    for number, entry in enumerate(listed):
        place = f"{here}[{number}]"
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
            continue
        try:
            user = matrix_user(entry["user_id"])
        except ValueError as error:
            faults.append(Fault(place=f"{place}.user_id", message=str(error)))
            continue
        try:
            scopes = patterns_of(entry["scopes"]) if "scopes" in entry else None
        except ValueError as error:
            faults.append(Fault(place=f"{place}.scopes", message=str(error)))
            continue
        found.append(Allowed(user, tuple(may), scopes))
    return tuple(found)
