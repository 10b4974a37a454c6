"""What `make demo` runs: start a node, give it the census of the standard library, show what came out, stop it.

The node lives in a temporary home, unless CIS_HOME names one. The results stay, in build/demo/, unless CENSUS_OUT names
another folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "examples/stdlib-census.yaml"
RESULTS = Path(os.environ.get("CENSUS_OUT") or ROOT / "build" / "demo").absolute()
CIS = (sys.executable, "-m", "cis")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the node and of every command: this Python first, the results let through."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    passed = ",".join(filter(None, [os.environ.get("CIS_PASS_ENV"), "CENSUS_OUT"]))
    return {**os.environ, "CIS_HOME": str(home), "PATH": path, "CENSUS_OUT": str(RESULTS), "CIS_PASS_ENV": passed}


def title(words: str) -> None:
    """Say what comes next."""
    print(f"\n{BOLD}== {words}{PLAIN}", flush=True)


def cis(env: dict[str, str], *words: str) -> None:
    """Run one command, shown as it would be typed."""
    print(f"\n{BOLD}$ cis {' '.join(words)}{PLAIN}", flush=True)
    subprocess.run([*CIS, *words], env=env, check=True, cwd=ROOT)


@contextlib.contextmanager
def node(home: Path, env: dict[str, str]) -> Iterator[str]:
    """Run a node until the block is left, however it is left; yields where it listens."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = home / "demo-node.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this program alone, which then stops the node in good order.
        process = subprocess.Popen(
            [*CIS, "node", "start", "--port", "0"], env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield announced(home / "run" / "node.json", process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def announced(file: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address that the node says it listens at, once it does."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(file.read_text(encoding="utf-8"))
            if told["pid"] == process.pid:
                return str(told["url"])
        time.sleep(0.05)
    raise SystemExit(f"the node did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")


def show(env: dict[str, str]) -> None:
    """Run the census and show what the node knows of it, and what it made."""
    title("A real DAG: count the packages of the standard library side by side, join, draw")
    cis(env, "dag", "validate", DOCUMENT)
    cis(env, "dag", "run", DOCUMENT, "--wait")
    cis(env, "dag", "status", "stdlib-census")
    cis(env, "dag", "logs", "stdlib-census", "--task", "modules")
    cis(env, "dag", "logs", "stdlib-census", "--task", "report")
    cis(env, "dag", "worker", "list")

    title("The results")
    newest = max(RESULTS.glob("*/census.csv"), key=lambda path: path.stat().st_mtime)
    print("\n".join(newest.read_text(encoding="utf-8").splitlines()[:6]))
    print(f"\ntable:   {newest}\npicture: {newest.with_suffix('.svg')}", flush=True)


def stop(_signal: int, _frame: FrameType | None) -> None:
    """Turn TERM into an exception, so that the node is stopped on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> int:
    """Run the demonstration."""
    signal.signal(signal.SIGTERM, stop)
    with contextlib.ExitStack() as stack:
        named = os.environ.get("CIS_HOME")
        home = Path(named) if named else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cis-demo-")))
        env = environment(home)
        title(f"A node, in {home}")
        print(f"it listens at {stack.enter_context(node(home, env))}")
        try:
            show(env)
        except subprocess.CalledProcessError as error:
            print(f"the demonstration failed: cis ended with status {error.returncode}", file=sys.stderr)
            print((home / "demo-node.log").read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
            return 1
    title("Stopped. `make serve` starts a node of your own; README.md goes on from here.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
