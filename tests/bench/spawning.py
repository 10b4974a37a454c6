"""The cases ``layered``, ``chain`` and ``fanout``: what part of the machine's rate of spawning a DAG reaches.

Each round measures the limit and the product in turn, so that the machine's other load falls on both; the figure is
the ratio. The limit keeps two processes in flight (for the chain one), the product every promise: each state on disk
before the next, a log file for each stream, one worker process. But for the chain it has 16 slots for each core
(``homes.MANY_SLOTS``): a task that ends sooner than a flush does needs many others beside it; what the default of 2 reaches is told, without a bar.
A run is timed from its start to its end, both as the database tells them. Each home has seen one run before the first
that counts, since a home is seldom new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from tests.bench import documents
from tests.bench.figures import Cost, Figure, Plan, Result
from tests.bench.homes import run_here, with_many_slots
from tests.bench.limit import append_ms, spawn_rate
from tests.worlds.harness import Sandbox

BARS = {"layered": 0.75, "layered 100,000": 0.65, "fanout": 0.75, "chain": 0.6, "chain, flushed": 0.75}
FLUSH_OF_BAR_MS = 0.2
SAME_WITHIN = 0.15  # the rate at 100,000 tasks against the one at 1,000
SLOWEST_TASKS_PER_S = 50.0


@dataclass(frozen=True, slots=True)
class Round:
    """Rates of one round, in tasks a second, and the seconds of the whole command."""

    bare: float
    product: float
    command_s: float

    @property
    def ratio(self) -> float:
        """The part of the machine's limit that the product reaches."""
        return self.product / self.bare


def measure(
    sandbox: Sandbox, make: Callable[[int], documents.Document], count: int, *, rounds: int, in_flight: int = 2
) -> list[Round]:
    """Measure the limit and the product in turn."""
    found = []
    for _ in range(rounds):
        bare = spawn_rate(min(count, 20_000), in_flight=in_flight)
        document = make(count)
        took_s, command_s = run_here(sandbox, document, timeout_s=60 + count / SLOWEST_TASKS_PER_S)
        found.append(Round(bare, len(document["tasks"]) / took_s, command_s))
    return found


def layered(plan: Plan) -> Result:
    """Measure layered DAGs of 10 tasks to 10,000 (in full 100,000); bars for 1,000 and 100,000."""
    usual = plan.sandbox("layered")
    sandbox = with_many_slots(usual)
    run_here(sandbox, documents.layered(1000), timeout_s=60)
    rounds = {10: 5, 100: 5, 1000: plan.rounds_or(5, 7), 10_000: plan.rounds_or(1, 3)}
    if plan.full:
        rounds[100_000] = plan.rounds_or(1, 3)
    result = Result()
    rates: dict[int, float] = {}
    for count, times in rounds.items():
        found = measure(sandbox, documents.layered, count, rounds=times)
        name = f"{count:,} tasks"
        bar = {1000: BARS["layered"], 100_000: BARS["layered 100,000"]}.get(count)
        rate = _figures(result, "layered", name, found, bar=bar)
        rates[count] = rate
        result.costs.append(Cost(case="layered", tasks=count, bare_ms=_cost(found, bare=True), product_ms=1000 / rate))
    found = measure(usual, documents.layered, 1000, rounds=rounds[1000])
    _figures(result, "layered", "1,000 tasks, default slots", found, bar=None)
    largest = max(rates)
    same = rates[largest] / rates[1000]
    result.figures.append(
        Figure(
            case="layered",
            what=f"rate of {largest:,} over rate of 1,000",
            unit="ratio",
            values=(same,),
            at_least=1 - SAME_WITHIN if plan.full else None,
            at_most=1 + SAME_WITHIN if plan.full else None,
        )
    )
    return result


def chain(plan: Plan) -> Result:
    """Measure a chain of 1,000 tasks against spawning one at a time, alone and with what each link has to wait for: a flush.

    The bar against spawning alone was set where a flush takes 0.2 ms, and counts where it takes no longer.
    """
    sandbox = plan.sandbox("chain")
    run_here(sandbox, documents.chain(1000), timeout_s=120)
    found, flushes_ms = [], []
    for _ in range(plan.rounds_or(3, 7)):
        flushes_ms.append(fmean(append_ms(plan.folder)))
        found += measure(sandbox, documents.chain, 1000, rounds=1, in_flight=1)
    result = Result()
    flushed = tuple(
        each.product * (1 / each.bare + flush_ms / 1000) for each, flush_ms in zip(found, flushes_ms, strict=True)
    )
    what = "1,000 tasks, of bare spawning and a flush for each"
    result.figures.append(
        Figure(case="chain", what=what, unit="ratio", values=flushed, at_least=BARS["chain, flushed"])
    )
    is_fast = median(flushes_ms) <= FLUSH_OF_BAR_MS
    _figures(result, "chain", "1,000 tasks", found, bar=BARS["chain"] if is_fast else None)
    return result


def fanout(plan: Plan) -> Result:
    """Measure 10,000 tasks (shorter: 2,000) and their join."""
    sandbox = with_many_slots(plan.sandbox("fanout"))
    count = plan.size(2000, 10_000)
    run_here(sandbox, documents.fanout(1000), timeout_s=120)
    found = measure(sandbox, documents.fanout, count, rounds=plan.rounds_or(3, 5))
    result = Result()
    _figures(result, "fanout", f"{count:,} tasks and one join", found, bar=BARS["fanout"])
    return result


def _figures(result: Result, case: str, name: str, found: list[Round], *, bar: float | None) -> float:
    """Add the figures of a size; return the median rate of the product."""
    ratios = tuple(each.ratio for each in found)
    rate = Figure(case=case, what=f"{name}: rate", unit="tasks/s", values=tuple(each.product for each in found))
    whole = Figure(case=case, what=f"{name}: whole command", unit="s", values=tuple(each.command_s for each in found))
    result.figures += [
        Figure(case=case, what=f"{name}, of bare spawning", unit="ratio", values=ratios, at_least=bar),
        rate,
        Figure(case=case, what=f"{name}: bare spawning", unit="starts/s", values=tuple(each.bare for each in found)),
        whole,
    ]
    return rate.median


def _cost(found: list[Round], *, bare: bool) -> float:
    rates = sorted(each.bare if bare else each.product for each in found)
    return 1000 / rates[len(rates) // 2]
