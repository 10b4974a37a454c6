"""The home of a node: ``CIS_HOME``, a folder that only its user can open."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cis.errors import ConfigError, Fault
from cis.node.safety import owner_faults, path_fault, way_faults


@dataclass(frozen=True, slots=True)
class Home:
    """The places in a home; ``ensure`` makes them."""

    root: Path

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
                message = "is there, and is no folder; remove it, or choose another CIS_HOME"
                raise ConfigError([Fault(place=str(folder), message=message)]) from error
            except OSError as error:
                raise ConfigError([Fault(place=str(folder), message=f"cannot be made: {error.strerror}")]) from error
            if stat.S_ISLNK(mode):
                if folder is not self.root:
                    message = "is a symbolic link; make it a real folder"
                    raise ConfigError([Fault(place=str(folder), message=message)])
                mode = folder.stat().st_mode
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                message = (
                    f"others may write there; look at what is in it, then: chmod go-rwx {shlex.quote(str(folder))}"
                )
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
    return Home(Path(named).expanduser().absolute() if named else Path.home() / ".cis")
