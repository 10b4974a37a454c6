"""What a case hands back: figures with their bars, and what a task costs at each size."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.worlds.harness import Sandbox, make_sandbox


class LostError(Exception):
    """The product did not do what was asked of it, so a figure of it would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of a case, measured once or in several rounds; its median is what counts."""

    case: str
    what: str
    unit: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def passes(self) -> bool | None:
        """Whether the median is within the bars; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        low, high = self.at_least, self.at_most
        return (low is None or self.median >= low) and (high is None or self.median <= high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Milliseconds for each task of a DAG of *tasks* tasks: of bare spawning, and of the product."""

    case: str
    tasks: int
    bare_ms: float
    product_ms: float


@dataclass(slots=True)
class Result:
    """All that was measured, in order."""

    figures: list[Figure] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take over what another one holds."""
        self.figures.extend(other.figures)
        self.costs.extend(other.costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured, and where the homes lie."""

    folder: Path
    full: bool = False
    rounds: int | None = None
    keep: bool = False

    def rounds_or(self, short: int, full: int) -> int:
        """Return how many rounds a case makes."""
        return self.rounds or self.size(short, full)

    def size(self, short: int, full: int) -> int:
        """Return how much of something a case takes."""
        return full if self.full else short

    def sandbox(self, name: str) -> Sandbox:
        """Return a new home; it goes with the folder, after the last case, since deleting slows what comes next."""
        folder = self.folder / name
        folder.mkdir()
        return make_sandbox(folder)


def percentile(values: Sequence[float], part: int) -> float:
    """Return the value that *part* percent of the values do not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


@contextmanager
def deadline_is_a_loss(what: str) -> Iterator[None]:
    """Say which case it was when something in it took too long, or was not as it should be."""
    try:
        yield
    except AssertionError as error:
        raise LostError(f"{what}: {error}") from error
