"""Documents made to hurt: changed at random, led by coverage, and large; and messages, led by coverage as well.

Only our own errors may come out, in bounded time and memory, and what is accepted lasts (``fuzzing/documents.py``).
What is read from the database, and messages that a trusted node signed, are in ``test_fuzz_rows.py``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.chaos.fuzzing import documents
from tests.chaos.fuzzing.trees import changed, seeded
from tests.worlds.battery import LONG, figures, first_seed, size

EXAMPLES = size(2_000, 60_000)
GUIDED_S = size(12, 600)
LARGE_BYTES = size(1 << 20, 15 << 20)
LARGE = size(12, 60)
SLOW_S = 5.0  # for a few kilobytes, on a machine that does other things as well
MEMORY_MB = 1024
ROOT = Path(__file__).parents[2]
SEED = first_seed()


@pytest.mark.timeout(size(240, 1200))
def test_a_changed_document_is_refused_in_our_own_words_or_lasts() -> None:
    found = {"accepted": 0, "refused": 0, "slowest_s": 0.0}

    @seed(SEED)
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**63 - 1))
    def fuzz(number: int) -> None:
        chance = seeded(number)
        text, notation = documents.document(chance)
        began_s = time.monotonic()
        accepted = documents.check(text, chance.choice((notation, None)))
        took_s = time.monotonic() - began_s
        found["accepted" if accepted else "refused"] += 1
        found["slowest_s"] = max(found["slowest_s"], round(took_s, 3))
        assert took_s < SLOW_S

    fuzz()
    figures("fuzz-documents", seed=SEED, **found)
    assert min(found["accepted"], found["refused"]) > EXAMPLES // 20


@pytest.mark.timeout(size(240, 1200))
def test_a_changed_record_of_a_workflow_is_refused_in_our_own_words_or_is_a_dag() -> None:
    accepted = 0
    for number in range(EXAMPLES // 5):
        chance = seeded(SEED + number)
        plain = changed(documents.WORKFLOW, chance, times=chance.randint(0, 4))
        accepted += documents.check_workflow(plain, commands=chance.random() < 0.5)

    assert 0 < accepted < EXAMPLES // 5


@pytest.mark.timeout(size(240, 1200))
def test_a_large_document_costs_bounded_time_and_memory() -> None:
    """Each in a process of its own, which may not have more memory than the bound."""
    slowest_s = 0.0
    for number in range(SEED, SEED + LARGE):
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.fuzzing.large", str(number), str(LARGE_BYTES)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        slowest_s = max(slowest_s, time.monotonic() - began_s)

        assert done.returncode == 0, f"CIS_SEED={number}: {done.stderr[-2000:]}"
    figures("fuzz-large", bytes=LARGE_BYTES, documents=LARGE, slowest_s=round(slowest_s, 1))


@pytest.mark.timeout(size(180, 1200))
def test_what_coverage_leads_to_is_refused_in_our_own_words_too(tmp_path: Path) -> None:
    _demand_atheris()
    fuzzers = {name: _fuzzer(name, tmp_path / name) for name in ("documents", "messages")}
    said = {name: process.communicate(timeout=GUIDED_S + 120)[0] for name, process in fuzzers.items()}
    found: dict[str, int] = {}
    for name, text in said.items():
        runs, covered = re.search(r"Done (\d+) runs", text), re.findall(r"cov: (\d+)", text)
        assert fuzzers[name].returncode == 0, f"{name}: CIS_SEED={SEED}\n{text[-4000:]}"
        assert runs is not None
        found |= {f"{name}_executions": int(runs[1]), f"{name}_edges": int(covered[-1])}

    figures("fuzz-guided", seed=SEED, seconds=GUIDED_S, crashes=0, **found)


def _demand_atheris() -> None:
    if importlib.util.find_spec("atheris") is not None:
        return
    has_wheel = sys.platform == "linux" and os.uname().machine == "x86_64" and sys.version_info < (3, 14)
    assert not (has_wheel and os.environ.get("CI")), "atheris has to be there where there is one: make .venv anew"
    pytest.skip("atheris is not installed: coverage leads nowhere (there is one for Linux on x86_64, Python < 3.14)")


def _fuzzer(name: str, folder: Path) -> subprocess.Popen[str]:
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    options = {
        "max_total_time": GUIDED_S,
        "seed": SEED % 2**31 or 1,
        "rss_limit_mb": MEMORY_MB,
        "timeout": 20,
        "max_len": 65_536 if LONG else 8_192,
        "artifact_prefix": f"{folder}/",
    }
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.chaos.fuzzing.guided",
            name,
            str(corpus),
            *(f"-{option}={value}" for option, value in options.items()),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
