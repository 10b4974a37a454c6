"""Two tables of ``cis.toml``: what a scope has (``[scope."project:proj-a"]``), and the node's ``[secrets]``.

Both are read as data, with every fault and its place. An entry of ``[secrets]`` says where a value is:

    NAME = "value"             in the file itself
    NAME = {env = "VAR"}       a variable of the node's own environment
    NAME = {file = "path"}     a file that only its owner can read; a relative path counts from the home

An entry may say ``scopes`` besides, and a table ``[scope."…"]`` which ``secrets`` its scope may ask for: both have to
allow it, when a DAG is accepted and again when an attempt starts.

What is not in the table is no secret, so a document cannot ask for any variable or file that it likes. The table and
the files are read when an attempt starts, so a changed value holds for the next one. Values go into the environment of
that attempt and nowhere else: not into settings, which travel to other processes and are shown.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cis.errors import Fault, LaunchError
from cis.model.ids import did_you_mean, name_fault
from cis.model.scope import Scope
from cis.model.scope_rules import (
    MAX_PATTERNS,
    RULE_NAMES,
    Patterns,
    ScopeRules,
    ScopeTable,
    allows,
    listed,
    pattern_fault,
    rules_of,
)

SCOPE_SECTION = "scope"
HIGHEST = 1_000_000

SECTION = "secrets"
_KINDS = ("env", "file")
_SCOPES = "scopes"


def scope_tables(found: object, *, file: str) -> tuple[tuple[ScopeTable, ...], list[Fault]]:
    """Return the tables of a settings file, and what is wrong with them."""
    faults: list[Fault] = []
    if not isinstance(found, dict):
        return (), [
            Fault(place=f"{file}: {SCOPE_SECTION}", message=f'must be tables, [{SCOPE_SECTION}."project:proj-a"]')
        ]
    tables = []
    for pattern, table in found.items():
        place = f'{file}: {SCOPE_SECTION}."{pattern}"'
        fault = pattern_fault(pattern)
        if fault is not None:
            faults.append(Fault(place=place, message=fault))
        if isinstance(table, dict):
            tables.append(ScopeTable(pattern=pattern, rules=_rules(table, place, faults)))
        else:
            faults.append(Fault(place=place, message=f'must be a table, [{SCOPE_SECTION}."{pattern}"]'))
    return tuple(tables), faults


def patterns_of(value: object) -> Patterns:
    """Return a list of scopes. Raises ValueError, which says what is wrong with it."""
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of scopes, as ["project:proj-a", "user:*"], and not empty')
    if len(value) > MAX_PATTERNS:
        raise ValueError(f"must name {MAX_PATTERNS} scopes at most; '*' at the end of one stands for many")
    wrong = [fault for fault in map(pattern_fault, value) if fault is not None]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(dict.fromkeys(value))


def _rules(table: dict[str, Any], place: str, faults: list[Fault]) -> ScopeRules:
    values: dict[str, Any] = {}
    for key, value in table.items():
        read = _READERS.get(key)
        if read is None:
            hint = did_you_mean(key, RULE_NAMES) or f"; known: {', '.join(RULE_NAMES)}"
            faults.append(Fault(place=f"{place}.{key}", message=f"is not a setting of a scope{hint}"))
            continue
        try:
            values[key] = read(value)
        except ValueError as error:
            faults.append(Fault(place=f"{place}.{key}", message=str(error)))
    return ScopeRules(**values)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= HIGHEST:
        raise ValueError(f"must be a whole number from 1 to {HIGHEST}, not {value!r:.60}")
    return value


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('must be a table of variables, as {TIER = "test"}')
    wrong = [f"{name!r:.60} {fault}" for name, text in value.items() if (fault := _variable_fault(name, text))]
    if wrong:
        raise ValueError("; ".join(wrong))
    return {name: str(text).lower() if isinstance(text, bool) else str(text) for name, text in value.items()}


def _variable_fault(name: str, text: object) -> str | None:
    if not (name.isascii() and name.isidentifier()):
        return "is not a name of a variable; use ASCII letters, digits and '_'"
    if name.startswith("CIS_"):
        return "is set by CIS itself, as all that begin so; choose another name"
    fine = "\0" not in text if isinstance(text, str) else isinstance(text, int)
    return None if fine else "must be a string without NUL, a whole number, true or false"


def _secret_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a list of names of secrets; an empty one allows none")
    wrong = [fault for fault in map(name_fault, value) if fault is not None]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(dict.fromkeys(value))


_READERS: dict[str, Callable[[object], Any]] = {
    "slots": _count,
    "max_runs": _count,
    "max_queued": _count,
    "env": _env,
    "secrets": _secret_names,
}


class TomlSecrets:
    """The ``SecretBook`` of the home whose settings are *toml*; variables come from *environ*."""

    __slots__ = ("_scopes", "_seen", "_table", "environ", "toml")

    def __init__(self, toml: Path, environ: Mapping[str, str]) -> None:
        self.toml = toml
        self.environ = environ
        self._table: Mapping[str, Any] = {}
        self._scopes: Sequence[ScopeTable] = ()
        self._seen: tuple[int, int, int] | None = None

    def reveal(self, names: Iterable[str], *, scope: Scope) -> Mapping[str, str]:
        """Return the values of *names*, for a task of *scope*.

        Raises:
            LaunchError: says which one is missing, or not for that scope, and the mend.
        """
        wanted = sorted(names)
        refused = self.refused(wanted, scope=scope)
        if refused:
            raise LaunchError("; ".join(refused.values()))
        table = self.table()
        return {name: self._value(table, name) for name in wanted}

    def refused(self, names: Iterable[str], *, scope: Scope) -> Mapping[str, str]:
        """Return why *scope* may not have some of *names*, by name. Raises LaunchError when settings cannot be read."""
        table = self.table()
        allowed = rules_of(self._scopes, scope).secrets if self._scopes else None
        found = {}
        for name in names:
            entry = table.get(name)
            patterns = entry.get(_SCOPES) if isinstance(entry, dict) else None
            if patterns is not None and not (isinstance(patterns, list) and allows(tuple(patterns), scope)):
                found[name] = (
                    f"scope {scope} may not have the secret {name}, which is for {listed(patterns)}; "
                    f"add the scope to {SECTION}.{name}.{_SCOPES} of {self.toml}, or leave the secret out"
                )
            elif allowed is not None and name not in allowed:
                found[name] = (
                    f"scope {scope} may not have the secret {name}, only {listed(allowed)}; "
                    f'add it to "secrets" of [{SCOPE_SECTION}."{scope}"] in {self.toml}, or leave it out'
                )
        return found

    @property
    def place(self) -> str:
        """The file that names them."""
        return str(self.toml)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of *names* that the table does not have."""
        table = self.table()
        return [name for name in names if name not in table]

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong with each value, but for variables: only the node's own environment counts.

        Of a file that cannot be read at all, settings say so.
        """
        try:
            table = _entries(_read(self.toml))
        except (OSError, ValueError, RecursionError):
            return
        for name, entry in table.items():
            if isinstance(entry, dict) and "env" in entry:
                continue
            try:
                self._value(table, name)
            except LaunchError as error:
                yield Fault(place=f"{self.toml.name}: {SECTION}.{name}", message=str(error))

    def warnings(self) -> Iterator[str]:
        """Yield names that tables of scopes allow and that are no secrets here; nothing if that cannot be read."""
        try:
            table = self.table()
        except LaunchError:
            return
        for one in self._scopes:
            for name in one.rules.secrets or ():
                if name not in table:
                    yield (
                        f'{self.toml.name}: {SCOPE_SECTION}."{one.pattern}".{SECTION} names {name}, but this node'
                        f" has no secret of that name; add it to [{SECTION}]{did_you_mean(name, table)}"
                    )

    def table(self) -> Mapping[str, Any]:
        """Return the table as the file has it now. Raises LaunchError when it cannot be read."""
        try:
            status = self.toml.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                (self._table, self._scopes), self._seen = _read_tables(self.toml), seen
        except FileNotFoundError:
            self._table, self._scopes, self._seen = {}, (), None
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise LaunchError(f"{self.toml} cannot be read: {error}; 'cis config check' says more") from error
        return self._table

    def _value(self, table: Mapping[str, Any], name: str) -> str:
        if name not in table:
            hint = did_you_mean(name, table)
            raise LaunchError(f"this node has no secret {name!r}; add it to [{SECTION}] of {self.toml}{hint}")
        entry = table[name]
        fault = _entry_fault(name, entry)
        if fault is None:
            value = self._found(name, entry)
            from cis.model.secret_forms import value_fault  # noqa: PLC0415 - 3 ms, for those who read a value

            fault = value_fault(value)
            if fault is None:
                return value
        raise LaunchError(f"the secret {name!r} {fault}")

    def _found(self, name: str, entry: Any) -> str:
        if isinstance(entry, str):
            return entry
        if "env" in entry:
            value = self.environ.get(entry["env"])
            if value is None:
                raise LaunchError(f"the secret {name!r} is the variable {entry['env']}, which the node was not given")
            return value
        path = self.toml.parent / Path(entry["file"]).expanduser()
        try:
            return _read_private(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise LaunchError(f"the secret {name!r} cannot be read from {path}: {why}") from error


def table_faults(table: object) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the form of ``[secrets]``, as (name, message); never a value."""
    if not isinstance(table, dict):
        yield "", f"must be a table, [{SECTION}]"
        return
    for name, entry in table.items():
        fault = _entry_fault(name, entry)
        if fault is not None:
            yield name, fault


def holds_values(toml: Path) -> bool:
    """Whether values stand in the settings themselves."""
    try:
        return any(isinstance(entry, str) for entry in _read_tables(toml)[0].values())
    except (OSError, ValueError, RecursionError):
        return False


def _entry_fault(name: str, entry: object) -> str | None:
    fault = name_fault(name)
    if fault is not None:
        return fault
    if isinstance(entry, str):
        from cis.model.secret_forms import value_fault  # noqa: PLC0415 - as above

        return value_fault(entry)
    places = [place for kind, place in entry.items() if kind != _SCOPES] if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or len(places) != 1 or not set(entry) <= {*_KINDS, _SCOPES}:
        return 'must be a string, {env = "VARIABLE"} or {file = "path"}, the last two perhaps with scopes = ["…"]'
    if not isinstance(places[0], str) or not places[0] or "\0" in places[0]:
        return "must name a variable or a file"
    try:
        patterns_of(entry.get(_SCOPES, ["*"]))
    except ValueError as error:
        return f"has wrong {_SCOPES}: {error}"
    return None


def _read_tables(toml: Path) -> tuple[Mapping[str, Any], Sequence[ScopeTable]]:
    """Return the secrets and the tables of scopes. Raises ValueError: what cannot be read allows nothing."""
    whole = _read(toml)
    table = _entries(whole)
    scopes, faults = scope_tables(whole.get(SCOPE_SECTION, {}), file=toml.name)
    if faults:
        raise ValueError("; ".join(map(str, faults)))
    return table, scopes


def _read(toml: Path) -> Mapping[str, Any]:
    """Return all of a settings file. Raises OSError or ValueError."""
    import tomllib  # noqa: PLC0415 - 4 ms, for those who have such a file

    return tomllib.loads(toml.read_text(encoding="utf-8"))


def _entries(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table of secrets of a settings file. Raises ValueError when it is none."""
    table = whole.get(SECTION, {})
    if not isinstance(table, dict):
        raise ValueError(f"[{SECTION}] is not a table")
    return table


def _read_private(path: Path) -> str:
    """Return the text of a file that only its owner can read, without one line end at its end."""
    # Not through a symbolic link, which may lead elsewhere tomorrow; and a FIFO must not make the worker wait.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise ValueError("it is a symbolic link; name the file itself") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_uid not in (os.getuid(), 0):
            raise ValueError("it belongs to another user")
        if status.st_mode & 0o077:
            raise ValueError(f"it is open to others ({status.st_mode & 0o777:o}); chmod 600 {path}")
        from cis.model.secret_forms import MAX_BYTES  # noqa: PLC0415 - as above

        data = os.read(descriptor, MAX_BYTES + 3)
    finally:
        os.close(descriptor)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text; encode it, as with base64") from error
    return text.removesuffix("\n").removesuffix("\r")
