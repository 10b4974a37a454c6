"""The benchmark suite: how near the product comes to what the machine can do.

    python -m tests.bench [CASE …] [--full] [--rounds N] [--dir DIR] [--keep] [--json FILE] [--markdown FILE]
                          [--plot FILE] [--record DOCUMENT]

Without ``--full`` sizes are smaller, and it takes about 3 minutes. Every figure is compared with its bar; the status is
1 if one misses it, or if a case did not do what it was asked to do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import cluster, memory, plot, querying, report, scopes, spawning, submitting, waiting_times
from tests.bench.figures import LostError, Plan, Result, deadline_is_a_loss
from tests.bench.limit import append_ms

CASES: dict[str, Callable[[Plan], Result]] = {
    "layered": spawning.layered,
    "chain": spawning.chain,
    "fanout": spawning.fanout,
    "submit": submitting.submit,
    "latency": waiting_times.latency,
    "cold": waiting_times.cold,
    "query": querying.query,
    "scopes": scopes.scopes,
    "memory": memory.memory,
    "cluster": cluster.cluster,
}


def main() -> int:
    """Measure, print, and compare with the bars."""
    options = _options()
    began_s = time.monotonic()
    result, lost = Result(), []
    with bench_folder(options.dir) as folder:
        flush_ms = statistics.median(append_ms(folder))
        print(f"a flushed append of 4 KiB: {flush_ms:.2f} ms; sizes: {'full' if options.full else 'short'}", flush=True)
        plan = Plan(folder=folder, full=options.full, rounds=options.rounds, keep=options.keep)
        for name in options.cases or CASES:
            case_began_s = time.monotonic()
            print(name, flush=True)
            try:
                with deadline_is_a_loss(name):
                    found = CASES[name](plan)
            except LostError as error:
                lost.append(name)
                print(f"  LOST: {error}", flush=True)
                continue
            result.add(found)
            print("\n".join(map(report.line, found.figures)))
            print(f"  ({time.monotonic() - case_began_s:.0f} s)", flush=True)
    about = report.about_here(full=options.full, seconds=time.monotonic() - began_s, append_ms=flush_ms)
    _write(options, result, about)
    missed = [f"{each.case}: {each.what}" for each in result.figures if each.passes is False]
    print("\n".join([f"missed: {each}" for each in missed] + [f"lost: {each}" for each in lost]) or "every bar is held")
    return 1 if missed or lost else 0


@contextmanager
def bench_folder(parent: Path) -> Iterator[Path]:
    """Make a folder for all homes, and delete it at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cis-bench-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="the product beside the machine's limit")
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *CASES], help=f"of {', '.join(CASES)}")
    parser.add_argument("--full", action="store_true", help="full sizes, about 12 minutes")
    parser.add_argument("--rounds", type=int, help="rounds of each case")
    parser.add_argument("--dir", type=Path, default=Path.home() / ".cache", help="where the homes lie (~/.cache)")
    parser.add_argument("--keep", action="store_true", help="keep the large database for the next time")
    parser.add_argument("--json", type=Path, help="write every value of every round")
    parser.add_argument("--markdown", type=Path, help="write the table")
    parser.add_argument("--plot", type=Path, help="write the cost of a task against the size of its DAG, as SVG")
    parser.add_argument("--record", type=Path, help="rewrite the block of results in this document, its plot beside it")
    return parser.parse_args()


def _write(options: argparse.Namespace, result: Result, about: dict[str, object]) -> None:
    for path in (options.json, options.markdown, options.plot):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        options.json.write_text(report.as_json(result, about) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(report.markdown(result, about), encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot.svg(result.costs), encoding="utf-8")
    if options.record:
        _record(options.record, result, about)


def _record(document: Path, result: Result, about: dict[str, object]) -> None:
    """Put the table into the document, and the plot beside it."""
    text = report.markdown(result, about)
    if result.costs:
        picture = document.with_suffix(".svg")
        picture.write_text(plot.svg(result.costs), encoding="utf-8")
        text += f"\n![The cost of a task against the size of its DAG]({picture.name})\n"
    report.rewrite_block(document, text)


if __name__ == "__main__":
    sys.exit(main())
