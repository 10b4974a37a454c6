"""What the start of the next task will want, made while there is time for it: its pipes, and its stamp."""

from __future__ import annotations

from contextlib import suppress

from cis.engine.ports import Launch, StrPath
from cis.executors.stamps import stamp_of
from cis.executors.streams import PlainStreams


class Foreseen:
    """Keeps that of one launch at most. *cap* bounds each log, *home* is part of each stamp."""

    def __init__(self, *, cap: int, home: StrPath | None) -> None:
        self._cap = cap
        self._home = home
        self._launch: Launch | None = None
        self._streams: PlainStreams | None = None
        self._stamp: int | None = None

    def make(self, launch: Launch) -> None:
        """Make it for *launch*, if that needs nothing else, and there are descriptors."""
        self.forget()
        if launch.mask or launch.keep_log or launch.stdin:
            return
        with suppress(OSError):
            self._streams = PlainStreams(launch.stdout, launch.stderr, cap=self._cap)
            self._stamp = stamp_of(launch.marks, home=self._home)
            self._launch = launch

    def take(self, launch: Launch) -> tuple[PlainStreams | None, int | None]:
        """Give up the pipes, if some were made for *launch*, and the stamp, which is there in any case."""
        if self._launch is not launch:
            self.forget()
            return None, stamp_of(launch.marks, home=self._home)
        streams, self._launch, self._streams = self._streams, None, None
        return streams, self._stamp

    def forget(self) -> None:
        """Close what was made in vain."""
        if self._streams is not None:
            self._streams.close()
        self._launch = self._streams = None
