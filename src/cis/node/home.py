"""The home of a node: ``CIS_HOME``, a folder that only its user can open, on a way that nobody else can change.

``way_faults`` looks at every folder and link on the way, as ssh does for its keys. Who owns a folder can change what is
in it, whatever its mode says; who can write the folder above can put another one in its place; who owns a link can have
it lead elsewhere. So every step belongs to this user or root, and nobody else may write there, but for folders with the
sticky bit (``/tmp``), in which only owners replace what is theirs.

Whether a node of the home runs, and where it listens (``announced``), is cheap enough to ask in every command.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cis.errors import ConfigError, Fault
from cis.store.opening import Shared, is_server, shown

MAX_PATH_BYTES = 482  # SQLite takes 504 for a database, and the longest name beside it is "cis.db.before-restore"
_MOST_LINKS = 40  # as Linux has it
_ROOT = 0
_ALL_USERS = ["0", "0", "4294967295"]  # as user_namespaces(7) has it


class Home(NamedTuple):
    """The places in a home; ``ensure`` makes them."""

    root: Path
    server: str | None = None  # the address of a database that homes may share

    @property
    def store(self) -> Path | Shared:
        """The address of the store of this home, as ``cis.store.open_store`` takes it."""
        return self.db if self.server is None else Shared(self.server, self.root)

    @property
    def store_name(self) -> str:
        """The address of the store, as messages name it."""
        return shown(self.store)

    @property
    def db(self) -> Path:
        """The database."""
        return self.root / "cis.db"

    @property
    def toml(self) -> Path:
        """The settings."""
        return self.root / "cis.toml"

    @property
    def logs(self) -> Path:
        """What tasks and workers wrote."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Locks and bells of what runs now."""
        return self.root / "run"

    @property
    def attempts(self) -> Path:
        """What is kept of attempts that go on without their worker, one folder for each."""
        return self.run / "attempts"

    @property
    def work(self) -> Path:
        """The directories of tasks that name none, one for each worker id."""
        return self.root / "work"

    @property
    def token_file(self) -> Path:
        """The node's own token."""
        return self.root / "token"

    @property
    def key_file(self) -> Path:
        """The node's private key."""
        return self.root / "node.key"

    def ensure(self) -> None:
        """Make the home and its folders, mode 0700; harmless when repeated.

        Raises:
            ConfigError: one of them cannot be made, is a symbolic link, belongs to another user, or may be written by
                others, as may be what leads there: who can put files there can have this user run, read and overwrite
                what they like. Or its path is one that the database cannot have.
        """
        wrong = path_fault(self.root)
        faults = [wrong] if wrong is not None else [*way_faults(self.root), *self._owners()]
        if faults:
            raise ConfigError(faults)
        for folder in (self.root, self.logs, self.run, self.work):
            try:
                _make_private(folder)
                mode = folder.lstat().st_mode
            except FileExistsError as error:
                message = "is there, but is not a folder; remove it, or choose another CIS_HOME"
                raise ConfigError([Fault(place=str(folder), message=message)]) from error
            except OSError as error:
                raise ConfigError([Fault(place=str(folder), message=f"cannot be made: {error.strerror}")]) from error
            if stat.S_ISLNK(mode):
                if folder is not self.root:
                    message = "is a symbolic link; make it a real folder"
                    raise ConfigError([Fault(place=str(folder), message=message)])
                mode = folder.stat().st_mode
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                message = f"others may write there; look at what is in it, then: chmod go-rwx {_quoted(folder)}"
                faults.append(Fault(place=str(folder), message=message))
        if faults:
            raise ConfigError(faults)

    def _owners(self) -> list[Fault]:
        """Return what belongs to somebody else: the home, whatever is in it, or else what in it does."""
        return [*owner_faults([self.root])] or [*owner_faults(self._kept())]

    def _kept(self) -> tuple[Path, ...]:
        return self.root, self.logs, self.run, self.work, self.db, self.toml, self.token_file, self.key_file


def _make_private(folder: Path) -> None:
    """Make a folder, and those above it that are not there, so that only this user can open them."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def find_home(environ: Mapping[str, str]) -> Home:
    """Return the home that ``CIS_HOME`` names, or ``~/.cis``."""
    named = environ.get("CIS_HOME")
    root = Path(named).expanduser().absolute() if named else Path.home() / ".cis"
    return Home(root, _server(root, environ))


def _server(root: Path, environ: Mapping[str, str]) -> str | None:
    """Return the address of the database server that a variable or ``cis.toml`` names; ``load_settings`` tells of faults."""
    said: object = environ.get("CIS_STORE")
    if not said:
        try:
            text = (root / "cis.toml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        if "store" not in text:
            return None
        import tomllib  # noqa: PLC0415 - 4 ms, for those who say so

        try:
            node = tomllib.loads(text).get("node")
        except (ValueError, RecursionError):
            return None
        said = node.get("store") if isinstance(node, dict) else None
    return said if isinstance(said, str) and is_server(said) else None


def path_fault(root: Path) -> Fault | None:
    """Return what is wrong with the path of a home: SQLite takes no longer ones, and none that are not UTF-8."""
    path = os.fsencode(root)
    try:
        path.decode()
    except UnicodeDecodeError:
        shown = path.decode(errors="backslashreplace")
        return Fault(place=shown, message="its name is not UTF-8; choose another CIS_HOME, or rename the folder")
    length = max(len(path), len(os.fsencode(os.path.realpath(root))))
    if length > MAX_PATH_BYTES:
        message = f"this path has {length} bytes, and {MAX_PATH_BYTES} is the most; choose a shorter CIS_HOME"
        return Fault(place=f"{path[:60].decode(errors='replace')}…", message=message)
    return None


def way_faults(root: Path) -> Iterator[Fault]:
    """Yield who else could put another folder in place of the home *root*, as far as the way to it is there."""
    for step in _way_to(root):
        if step == root:
            status = step.lstat()
            if stat.S_ISLNK(status.st_mode) and not _trusted(status.st_uid):
                yield _owned(step, status.st_uid, link=True)
            continue
        status = step.lstat()
        if not _trusted(status.st_uid):
            yield _owned(step, status.st_uid, link=stat.S_ISLNK(status.st_mode))
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            yield Fault(
                place=str(step),
                message=f"others may write there ({stat.S_IMODE(status.st_mode):o}), and so put another home in place of"
                f" this one; chmod go-w {_quoted(step)}, or use another CIS_HOME",
            )


def owner_faults(paths: Iterable[Path]) -> Iterator[Fault]:
    """Yield which of *paths*, as far as they are there, belong to another user than this one or root."""
    for path in paths:
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if not _trusted(owner):
            yield _owned(path, owner, link=False)


def _quoted(path: Path) -> str:
    import shlex  # noqa: PLC0415 - only where something is wrong

    return shlex.quote(str(path))


def _owned(path: Path, owner: int, *, link: bool) -> Fault:
    quoted = _quoted(path)
    name, me = _name(owner), _name(os.geteuid())
    message = (
        f"{'is a link that belongs' if link else 'belongs'} to {name}, and you are {me}: whoever owns it can have you run"
        f" what they like. Run this as {name} (sudo -u {name} cis …), or use another CIS_HOME; if it is meant to be"
        f" yours, look at what is in it, then: chown -hR {me} {quoted}"
    )
    return Fault(place=str(path), message=message)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _trusted(uid: int) -> bool:
    return uid in (os.geteuid(), _ROOT) or uid == _root_from_outside()


@cache
def _root_from_outside() -> int:
    """Return as whom root shows where this namespace has no number for it; root itself where it has one."""
    try:
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _ALL_USERS:
            return _ROOT
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _ROOT


def _way_to(path: Path) -> Iterator[Path]:
    """Yield each folder and link that leads to *path* and itself, as far as they are there."""
    here, left, links = Path("/"), list(path.parts[1:]), 0
    yield here
    while left:
        name = left.pop(0)
        here = here.parent if name == ".." else here / name
        try:
            is_link = stat.S_ISLNK(here.lstat().st_mode)
        except OSError:  # not made yet, or not to be seen: making it says so
            return
        yield here
        if is_link and (links := links + 1) <= _MOST_LINKS:
            target = here.readlink()
            left = [*(target.parts[1:] if target.is_absolute() else target.parts), *left]
            here = Path("/") if target.is_absolute() else here.parent


class Announcement(NamedTuple):
    """What a running node says of itself in ``run/node.json``."""

    node_id: str
    url: str
    pid: int
    schema: int = 0  # 0: of a version that did not say


def node_lock_path(home: Home) -> Path:
    """Return the lock that a node holds while it runs."""
    return home.run / "node.lock"


def node_is_running(home: Home) -> bool:
    """Whether some process is this home's node now."""
    from cis.worker.lock import holder  # noqa: PLC0415 - a command that only reads asks for no lock

    return holder(node_lock_path(home)) is not None


def announcement_path(home: Home) -> Path:
    """Return the file in which a running node says where it listens."""
    return home.run / "node.json"


def announced(home: Home) -> Announcement | None:
    """Return what the running node said of itself; None when none runs or none has said it yet."""
    if not node_is_running(home):
        return None
    import json  # noqa: PLC0415 - only here

    try:
        told = json.loads(announcement_path(home).read_text(encoding="utf-8"))
        return Announcement(node_id=told["node_id"], url=told["url"], pid=told["pid"], schema=told.get("schema", 0))
    except (OSError, ValueError, KeyError, TypeError):
        return None
