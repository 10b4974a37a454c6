"""What every command has at hand: the home, the settings, the store, who types it, and a place to speak."""

from __future__ import annotations

import os
import pwd
import select
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cis.errors import UsageError
from cis.node.home import Home, find_home, node_is_running

if TYPE_CHECKING:
    from cis.app.actor import Actor
    from cis.engine.ports import SkillBook
    from cis.engine.this_node import ThisNode
    from cis.node.settings import Settings
    from cis.store.port import Store


class Context:
    """One call of ``cis``, over an environment; *flags* are settings given on the command line."""

    def __init__(self, environ: Mapping[str, str], *, flags: Mapping[str, object] | None = None) -> None:
        self.environ = environ
        self._flags = flags or {}

    @cached_property
    def home(self) -> Home:
        """The home, made where it is not there."""
        home = find_home(self.environ)
        home.ensure()
        return home

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises ConfigError with every fault."""
        from cis.node.settings import load_settings  # noqa: PLC0415 - lists and logs need no settings

        return load_settings(self.home, environ=self.environ, flags=self._flags)

    @cached_property
    def skills(self) -> SkillBook:
        """The skills that are installed."""
        from cis.skills.registry import InstalledSkills  # noqa: PLC0415 - few commands need them

        return InstalledSkills()

    @cached_property
    def this_node(self) -> ThisNode:
        """Where submissions of this command happen: this node."""
        from cis.node.tables import TomlSecrets  # noqa: PLC0415 - only who submits needs them
        from cis.node.this_node import make_this_node  # noqa: PLC0415

        secrets = TomlSecrets(self.home.toml, self.environ)
        return make_this_node(self.settings, skills=self.skills, secrets=secrets, node_runs=node_is_running(self.home))

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store for the length of a block."""
        from cis.store import open_store  # noqa: PLC0415 - not every command reads it

        store = open_store(self.home.store)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def store_as_it_is(self) -> Iterator[Store]:
        """Open the store and change nothing, not even an older schema. Raises NotFoundError when there is none."""
        from cis.store import open_store  # noqa: PLC0415 - not every command reads it

        store = open_store(self.home.store, as_it_is=True)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def writable_store(self) -> Iterator[Store]:
        """Open the store to change something, or to have something done, which a home does only where it lives.

        Raises:
            HomeElsewhereError: this home woke up on another machine or path.
        """
        from cis.node.residence import take_up  # noqa: PLC0415 - what only reads asks for no place

        with self.store() as store:
            take_up(store, self.home, self.settings)
            yield store


def this_user() -> Actor:
    """Return the user of the operating system, by name where it has one; never what an environment variable claims."""
    from cis.app.actor import Actor  # noqa: PLC0415 - only who changes something is named

    uid = os.getuid()
    try:
        name = os.fsencode(pwd.getpwuid(uid).pw_name).decode(errors="backslashreplace")
    except KeyError:
        name = str(uid)
    return Actor(name=f"user:{name}", source="cli")


def wake(run_dir: Path, workers: Iterable[str]) -> None:
    """Have the node of this home, and *workers* of it, look at what was stored."""
    from cis.worker.bell import ring  # noqa: PLC0415 - only who changes something wakes anybody

    for name in {"node", *workers}:
        ring(run_dir, name)


def check_utf8(path: Path) -> Path:
    """Return *path* if its name is UTF-8: nothing else can be stored. Raises UsageError."""
    name = os.fsencode(path)
    try:
        name.decode()
    except UnicodeDecodeError as error:
        shown = name.decode(errors="backslashreplace")
        raise UsageError(f"the name of {shown} is not UTF-8; rename it, or use another") from error
    return path


def say(text: str) -> None:
    """Tell the user something that is not the answer itself: standard error, if it can be written."""
    show(sys.stderr, f"{text}\n")


def show(stream: TextIO, text: str) -> None:
    """Write to a standard stream at once; what is shown may fail and ends nothing.

    Characters that the stream has not are written as numbers. Once it cannot be written (nobody reads it, its disk is
    full), what follows is thrown away, and standard error says so if that is another one.
    """
    try:
        _write(stream, text)
    except OSError as error:
        silence(stream)
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            say(f"cis: standard output cannot be written, so nothing more is shown there: {error.strerror or error}")


def _write(stream: TextIO, text: str) -> None:
    try:
        descriptor = stream.fileno()
    except OSError:  # somebody else's stream, in a test
        stream.write(text)
        return
    stream.flush()
    left = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # somebody else has made it so; it is full for now
            select.select([], [descriptor], [])


def silence(stream: TextIO) -> None:
    """Throw away what is written to a stream from now on, and what it holds."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def from_environment(*, flags: Mapping[str, object] | None = None) -> Context:
    """Return the context of this process."""
    return Context(os.environ, flags=flags)
