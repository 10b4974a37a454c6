"""What an evaluation has cost so far, and the most that it may."""

from __future__ import annotations

from cis.model.cel.faults import CostError

MAX_STEPS = 250_000
MAX_MADE = 2**20  # characters of strings and items of lists, that one evaluation makes
CHARACTERS_A_STEP = 64
PATTERN_STEPS = 25_000  # for each pattern: it is compiled, which may take some 40 ms


class Costs:
    """Counts steps, and what is made."""

    def __init__(self, most_steps: int = MAX_STEPS) -> None:
        self.steps = 0
        self._most = most_steps
        self._made = 0
        self._patterns: set[str] = set()

    def spend(self, steps: int) -> None:
        """Count steps that are about to be taken. Raises CostError."""
        self.steps += steps
        if self.steps > self._most:
            why = f"it takes more than {self._most:,} steps; have a task work it out, and hand on what comes of it"
            raise CostError(why)

    def read(self, characters: int) -> None:
        """Count characters that are about to be looked at. Raises CostError."""
        if characters >= CHARACTERS_A_STEP:
            self.spend(characters // CHARACTERS_A_STEP)

    def make(self, size: int) -> None:
        """Count what is about to be made. Raises CostError."""
        self._made += size
        if self._made > MAX_MADE:
            raise CostError(f"it makes strings and lists of more than {MAX_MADE:,} characters and items")
        self.read(size)

    def compile(self, pattern: str) -> None:
        """Count that a pattern is compiled, once for each. Raises CostError."""
        if pattern not in self._patterns:
            self.spend(PATTERN_STEPS)
            self._patterns.add(pattern)
