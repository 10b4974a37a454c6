"""Draw the census: one bar a package, in $OUT/census.svg. No library draws; SVG is only text."""

from __future__ import annotations

import csv
import os
import platform
from html import escape
from pathlib import Path

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 150, 170, 104, 62
ROW, BAR = 25, 17
INK, FAINT, GRID, PAPER, BLUE, DEEP = "#1f2933", "#6b7785", "#e3e8ee", "#ffffff", "#7aa7d9", "#2f6db3"
STEPS = (1, 2, 2.5, 5, 10)


def tick_step(largest: int, *, count: int = 5) -> int:
    """Return a round distance between about *count* marks of an axis that ends at *largest*."""
    scale = 10 ** (len(str(max(1, largest // count))) - 1)
    return int(next(step * scale for step in STEPS if step * scale * count >= largest))


def text(
    x: float, y: float, words: str, *, size: int = 13, colour: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    """Return one piece of text."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def draw(rows: list[dict[str, str]]) -> str:
    """Return the picture of rows that are sorted already."""
    total = sum(int(row["lines"]) for row in rows)
    largest = max((int(row["lines"]) for row in rows), default=1)
    step = tick_step(largest)
    end = step * -(-largest // step)
    plot = WIDTH - LEFT - RIGHT
    bottom = TOP + ROW * len(rows)
    parts = [
        text(24, 40, "Python's standard library, package by package", size=22, bold=True),
        text(
            24,
            64,
            f"{total:,} lines in {len(rows)} packages of Python {platform.python_version()}, tests left out; "
            "the ten largest are dark",
            colour=FAINT,
        ),
    ]
    for value in range(0, end + 1, step):
        x = LEFT + plot * value / end
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(text(x, bottom + 20, f"{value:,}", size=12, colour=FAINT, anchor="middle"))
    parts.append(text(LEFT + plot / 2, bottom + 44, "lines of source", colour=FAINT, anchor="middle"))
    for number, row in enumerate(rows):
        lines = int(row["lines"])
        y = TOP + ROW * number
        width = max(1.5, plot * lines / end)
        colour = DEEP if number < 10 else BLUE
        parts += [
            text(LEFT - 10, y + 13, row["package"], anchor="end"),
            (
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}">'
                f"<title>{escape(row['package'])}: {lines:,} lines</title></rect>"
            ),
            text(LEFT + width + 8, y + 13, f"{lines:,}", size=12, bold=True),
            text(
                LEFT + width + 16 + 7.5 * len(f"{lines:,}"),
                y + 13,
                f"{int(row['functions']):,} functions",
                size=12,
                colour=FAINT,
            ),
        ]
    parts.append(f'<line x1="{LEFT}" y1="{TOP - 8}" x2="{LEFT}" y2="{bottom}" stroke="{FAINT}"/>')
    height = bottom + BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" '
        f'aria-label="Lines of source of the packages of Python\'s standard library">\n'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    """Read the table and write the picture."""
    with Path(os.environ["CSV"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    picture = Path(os.environ["OUT"], "census.svg")
    picture.write_text(draw(rows), encoding="utf-8")
    with Path(os.environ["CIS_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"svg={picture}\n")
    print(f"drawn: {picture}")


if __name__ == "__main__":
    main()
