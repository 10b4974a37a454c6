"""What tasks write, as people see it: every line, in order, while they run and afterwards; and no more than may be kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.harness import Sandbox, make_sandbox, write_dag
from tests.worlds.waiting import wait_for


def test_every_line_of_a_task_that_opens_its_own_stream_by_name_is_followed_and_kept(sandbox: Sandbox) -> None:
    line = "echo 1; echo 2 > /dev/stdout; sleep 0.2; echo 3; exec 3>/dev/stdout; echo 4 >&3; echo 5; sleep 0.2; echo 6 | tee /dev/stderr"
    document = write_dag(sandbox.home.parent, {"dag_id": "named", "tasks": [{"id": "a", "command": line}]})

    followed = sandbox.cis("dag", "run", document, "--follow")
    (kept,) = sandbox.json("dag", "logs", "named")

    assert [word for word in followed.stdout.split() if word.isdigit()] == list("123456")
    assert (kept["output"], kept["error"]) == ("1\n2\n3\n4\n5\n6\n", "6\n")


def test_what_python_has_printed_is_in_the_log_although_it_is_killed(sandbox: Sandbox) -> None:
    code = "import os\nprint('seen')\nos.kill(os.getpid(), 9)"
    tasks = [
        {"id": "plain", "command": ["python3", "-c", code]},
        {"id": "skill", "skill": "python", "params": {"callable": "builtins:exec", "args": [code]}},
        {"id": "buffered", "command": ["python3", "-c", code], "env": {"PYTHONUNBUFFERED": ""}},
    ]
    document = write_dag(sandbox.home.parent, {"dag_id": "killed", "tasks": tasks})
    sandbox.json("dag", "run", document, expect=1)

    said = {log["task_id"]: log["output"] for log in sandbox.json("dag", "logs", "killed")}
    assert said == {"plain": "seen\n", "skill": "seen\n", "buffered": ""}


def test_a_log_keeps_to_its_bound_at_every_moment_also_when_its_task_is_over(sandbox: Sandbox) -> None:
    """Of a task that means to leave something behind (``leave``), of one that does not, and of one that lives."""
    go = sandbox.home.parent / "go"
    loud = f"until test -e {go}; do sleep 0.02; done; head -c 30000000 /dev/zero"
    tasks = [
        {"id": "a", "command": f"({loud}; touch {go}.a) & echo started", "leave": True},
        {"id": "b", "command": "(sleep 0.1; head -c 30000000 /dev/zero) & head -c 300000 /dev/zero"},
        {"id": "c", "command": loud},
    ]
    largest = 0
    with sandbox.node(CIS_MAX_LOG="100KiB") as node:
        run_id = node.execute({"dag_id": "loud", "tasks": tasks}).body["run_id"]
        wait_for(lambda: node.run(run_id)["tasks"][0]["status"] == "completed", what="the end of the first task")
        go.touch()

        def over() -> bool:
            nonlocal largest
            largest = max([largest, *(path.stat().st_size for path in sandbox.home.glob("logs/*/*.out"))])
            return bool(node.run(run_id)["status"] == "completed") and go.with_suffix(".a").exists()

        wait_for(over, what="the end of the run, and what the first task left")
        over()

    texts = [path.read_bytes() for path in sorted(sandbox.home.glob("logs/*/*.out"))]
    assert 100 * 2**10 <= largest <= 100 * 2**10 + 200
    assert texts[0] == b"started\n" + bytes(100 * 2**10 - len("started\n"))
    assert b"30197600 more bytes" in texts[1]
    assert b"29897600 more bytes" in texts[2]


INNER = {
    "dag_id": "inner",
    "tasks": [{"id": "x", "command": "echo from x"}, {"id": "y", "command": "echo lost >&2; exit 4", "deps": ["x"]}],
}
OUTER: dict[str, Any] = {
    "dag_id": "outer",
    "tasks": [
        {"id": "fine", "command": "echo fine"},
        {"id": "flaky", "command": "echo try $CIS_ATTEMPT; exit 3", "max_retries": 1, "retry_delay": 0},
        {"id": "after", "command": "true", "depends_on": ["flaky"]},
        {"id": "sub", "skill": "dag", "params": {"document": INNER}},
    ],
}


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sandbox, str, str]:
    """Give the tests a home where ``outer`` was run and followed, and what its two streams were."""
    folder = tmp_path_factory.mktemp("outer")
    sandbox = make_sandbox(folder)
    done = sandbox.cis("dag", "run", write_dag(folder, OUTER), "--follow")
    assert done.returncode == 1
    return sandbox, done.stdout, done.stderr


def test_who_follows_a_run_sees_whose_each_block_is_what_was_skipped_and_what_its_child_runs_do(
    outer: tuple[Sandbox, str, str],
) -> None:
    sandbox, out, err = outer
    child = next(one["run_id"] for one in sandbox.json("dag", "list") if one["dag_id"] == "inner")

    assert {
        "fine: fine",
        "flaky, attempt 2: try 2",
        "sub/x: from x",
    } <= told(out)
    assert {
        "after: skipped because of flaky",
        f"sub: is run {child}",
        "sub/y: lost",
        "sub/y: attempt 1 failed: exit status 4",
    } <= told(err)


def test_what_follows_says_the_same_to_one_file_as_to_two(outer: tuple[Sandbox, str, str]) -> None:
    sandbox, _, _ = outer
    words = [sys.executable, "-m", "cis", "dag", "logs", "outer", "--follow"]
    both = subprocess.run(words, env=dict(sandbox.env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)

    assert {
        "fine: fine",
        "flaky, attempt 1: try 1",
        "flaky, attempt 1: attempt 1 failed: exit status 3",
        "flaky, attempt 2: try 2",
        "flaky, attempt 2: attempt 2 failed: exit status 3",
        "after: skipped because of flaky",
        "sub/y: lost",
        "sub/y: attempt 1 failed: exit status 4",
    } <= told(both.stdout.decode())


def test_the_logs_of_what_failed_are_those_of_failed_tasks_down_to_child_runs(outer: tuple[Sandbox, str, str]) -> None:
    sandbox, _, _ = outer
    done = sandbox.cis("dag", "logs", "outer", "--failed")
    listed = sandbox.json("dag", "logs", "outer", "--failed")

    assert done.stdout == "==> flaky, attempt 1 <==\ntry 1\n==> flaky, attempt 2 <==\ntry 2\n"
    assert "==> sub/y <==\nlost\n" in done.stderr
    assert "fine" not in done.stdout + done.stderr
    assert [(one["task_id"], one["attempt"]) for one in listed if one["task_id"] != "sub"] == [
        ("flaky", 1),
        ("flaky", 2),
    ]


def test_each_line_has_its_time_if_that_is_asked_for(outer: tuple[Sandbox, str, str]) -> None:
    sandbox, _, _ = outer
    done = sandbox.cis("dag", "logs", "outer", "--timestamps")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("==>")]

    assert len(lines) == 6
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) \S", line) for line in lines)


def test_the_only_task_of_a_run_and_one_that_is_asked_for_need_no_heading(
    outer: tuple[Sandbox, str, str], tmp_path: Path
) -> None:
    sandbox, _, _ = outer
    single = write_dag(tmp_path, {"dag_id": "single", "tasks": [{"id": "t", "command": "echo out; echo err >&2"}]})
    followed = sandbox.cis("dag", "run", single, "--follow")
    logs = sandbox.cis("dag", "logs", "single")
    one = sandbox.cis("dag", "logs", "outer", "--task", "fine")
    second = sandbox.cis("dag", "logs", "outer", "--task", "flaky", "--attempt", "2")

    assert (followed.stdout, logs.stdout, logs.stderr) == ("out\n", "out\n", "err\n")
    assert one.stdout == "fine\n"
    assert second.stdout == "try 2\n"


@pytest.mark.parametrize("secret", [False, True])
def test_lines_of_two_streams_are_kept_in_their_order_and_with_their_times(sandbox: Sandbox, *, secret: bool) -> None:
    """Each line waits until the one before it is in its log, so that none depends on how fast that is."""
    log = f"{sandbox.home}/logs/$CIS_RUN_ID/0.1"
    wait = "until grep -qs {0} {1}.{2}; do sleep 0.02; done; sleep 0.02"
    steps = ["echo one", wait.format("one", log, "out"), "echo two >&2", wait.format("two", log, "err"), "echo three"]
    task: dict[str, Any] = {"id": "t", "command": "; ".join(steps)}
    if secret:
        task["secrets"] = ["S"]
        sandbox.cis("init")
        (sandbox.home / "s").write_text("hush-hush-hush")
        (sandbox.home / "s").chmod(0o600)
        with (sandbox.home / "cis.toml").open("a") as toml:
            toml.write('\n[secrets]\nS = {file = "s"}\n')
    ran = sandbox.cis("dag", "run", write_dag(sandbox.home.parent, {"dag_id": "both", "tasks": [task]}))
    assert ran.returncode == 0, ran.stderr
    words = [sys.executable, "-m", "cis", "dag", "logs", "both", "--timestamps"]
    both = subprocess.run(words, env=dict(sandbox.env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    lines = [line.split() for line in both.stdout.decode().splitlines()]

    assert [text for _, text in lines] == ["one", "two", "three"]
    assert len({at for at, _ in lines}) == 3
    assert [at for at, _ in lines] == sorted(at for at, _ in lines)


def told(text: str) -> set[str]:
    """Return each line of a log behind the name of its block: which blocks come between two lines is chance."""
    found, name = set(), ""
    for line in text.splitlines():
        name = line.removeprefix("==> ").removesuffix(" <==") if line.startswith("==> ") else name
        found.add(f"{name}: {line}")
    return found
