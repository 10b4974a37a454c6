"""The cost of a task against the size of its DAG, as SVG: both axes logarithmic, bare spawning beside the product."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.bench.figures import Cost

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 604, 44, 308
STEPS = (1, 2, 5)
# Colours that stand out from white and from black; the text takes what the page has.
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.grid{stroke:#8886;stroke-width:1}.bare{color:#8a8f98}"
    ".product{color:#2f81f7}polyline{fill:none;stroke:currentColor;stroke-width:2.5}circle,.name{fill:currentColor}"
    "@media(prefers-color-scheme:dark){text{fill:#d0d7de}}.name{fill:currentColor}"
)
Scale = Callable[[float], float]


def svg(costs: Sequence[Cost]) -> str:
    """Return the plot; of no costs, an empty one that says so."""
    ordered = sorted(costs, key=lambda cost: cost.tasks)
    title = (
        "Cost of a task against the size of its DAG" if ordered else "Nothing to plot: no case with sizes was measured"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="24">{title}</text>',
    ]
    if ordered:
        parts += _drawing(ordered)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawing(costs: Sequence[Cost]) -> list[str]:
    sizes = [cost.tasks for cost in costs]
    every_ms = [ms for cost in costs for ms in (cost.bare_ms, cost.product_ms)]
    ticks_ms = _ticks(min(every_ms), max(every_ms))
    across = _scale(min(sizes), max(sizes), LEFT, RIGHT)
    up = _scale(ticks_ms[0], ticks_ms[-1], BOTTOM, TOP)
    parts = [f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 10}" text-anchor="middle">tasks in the DAG</text>']
    for tick in ticks_ms:
        parts.append(f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g} ms</text>')
    for size in sorted(set(sizes)):
        parts.append(f'<path class="grid" d="M{across(size):.1f} {TOP}V{BOTTOM}"/>')
        parts.append(f'<text x="{across(size):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    bare = [(across(cost.tasks), up(cost.bare_ms)) for cost in costs]
    product = [(across(cost.tasks), up(cost.product_ms)) for cost in costs]
    return [*parts, *_line("bare", "bare spawning", bare), *_line("product", "CIS-DAG", product)]


def _line(kind: str, name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    x, y = points[-1]
    path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in points)
    dots = "".join(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4"/>' for at_x, at_y in points)
    label = f'<text class="name" x="{x - 8:.1f}" y="{y - 10:.1f}" text-anchor="end">{name}</text>'
    return [f'<g class="{kind}"><polyline points="{path}"/>{dots}{label}</g>']


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the way from values to places, logarithmic; a single value comes to the middle."""
    if high == low:
        return lambda _: (start + end) / 2
    span = math.log(high / low)
    return lambda value: start + (end - start) * math.log(value / low) / span


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from the last below *low* to the first above *high*."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [step * 10.0**power for power in range(first, last + 1) for step in STEPS]
    below = max(tick for tick in every if tick <= low)
    above = min(tick for tick in every if tick >= high)
    return [tick for tick in every if below <= tick <= above]
