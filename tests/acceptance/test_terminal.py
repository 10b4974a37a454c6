"""What people see at a terminal of 80 columns, and at a wide one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, make_sandbox, write_dag
from tests.worlds.terminal import Terminal, text_lines
from tests.worlds.waiting import wait_for

LONG_TASK = "a-task-whose-name-takes-up-most-of-a-line-of-eighty-columns-all-by-itself"
LAST_WORDS = "this is the last of a few lines, and it is too long for what is left of the line"
DAG = {
    "dag_id": "a-rather-long-dag-id-for-a-narrow-terminal",
    "tasks": [
        {"id": "killed", "command": "echo first >&2; echo out of luck >&2; kill -9 $$"},
        {"id": "told", "command": "exit 143"},
        {"id": LONG_TASK, "command": f"echo '{LAST_WORDS}' >&2; exit 3"},
        {"id": "after", "command": "true", "depends_on": ["killed"]},
    ],
}
ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]*")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Give the tests a home where a DAG was run three times, and failed."""
    folder = tmp_path_factory.mktemp("terminal")
    sandbox = make_sandbox(folder)
    document = write_dag(folder, DAG)
    for _ in range(3):
        assert sandbox.cis("dag", "run", document).returncode == 1
    return sandbox


def shown(home: Sandbox, *arguments: str, columns: int) -> list[str]:
    """Return the lines that a command shows."""
    return Terminal(*arguments, env=home.env, columns=columns).finished()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    "words",
    [("dag", "list"), ("dag", "status", str(DAG["dag_id"])), ("dag", "worker", "list", "--all"), ("node", "list")],
)
def test_tables_fit_the_terminal(home: Sandbox, words: tuple[str, ...], columns: int) -> None:
    lines = shown(home, *words, columns=columns)

    assert len(lines) > 1
    assert max(len(line) for line in lines) <= columns


def test_ids_are_whole_where_there_is_room_and_else_so_long_that_they_can_be_typed_back(home: Sandbox) -> None:
    runs = [one["run_id"] for one in home.json("dag", "list")]
    narrow, wide = (shown(home, "dag", "list", columns=columns)[1:] for columns in (80, 200))
    short = [line.split()[-1] for line in narrow]
    back = [home.json("dag", "status", one)["runs"][0]["run_id"] for one in short]

    assert [line.split()[-1] for line in wide] == runs
    assert all(8 <= len(one) < 36 for one in short)
    assert back == runs


def test_what_no_terminal_shows_is_whole(home: Sandbox) -> None:
    run = home.json("dag", "list")[0]["run_id"]

    assert run in home.cis("dag", "list").stdout
    assert LAST_WORDS in home.cis("dag", "status", str(DAG["dag_id"])).stdout


def test_a_task_that_failed_shows_its_status_as_a_shell_does_and_the_last_line_of_its_errors(home: Sandbox) -> None:
    lines = shown(home, "dag", "status", str(DAG["dag_id"]), columns=200)
    rows = {line.split()[0]: line for line in lines if "failed" in line or "skipped" in line}

    assert rows["killed"].split()[3] == "137"
    assert rows["killed"].endswith("ended by signal 9 (SIGKILL): out of luck")
    assert rows["told"].split()[3] == "143"
    assert "exit status 143 (SIGTERM)" in rows["told"]
    assert "exit status 3: this is the last of" in rows[LONG_TASK]


def test_a_watch_draws_one_screen_with_what_runs_and_failed_first_and_counts_how_long_it_takes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks = [{"id": f"t{number:02}", "command": "true", "depends_on": ["last"]} for number in range(40)]
    tasks += [{"id": "bad", "command": "exit 3"}, {"id": "last", "command": "cat fifo"}]
    document = write_dag(tmp_path, {"dag_id": "many", "tasks": tasks, "description": "one of many"})
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    with sandbox.node():
        sandbox.json("dag", "run", document)
        wait_for(
            lambda: (
                [one["status"] for one in sandbox.json("dag", "status", "many")["runs"][0]["tasks"][-2:]]
                == ["failed", "running"]
            ),
            timeout_s=60,
            what="one task that failed and one that runs",
        )
        watch = Terminal("dag", "status", "many", "--watch", env=sandbox.env, columns=80)
        seconds = re.compile(r"^last\s+running\s+1\s+-\s+(\d+)s", re.MULTILINE)
        wait_for(
            lambda: len(set(seconds.findall("\n".join(text_lines(watch.raw))))) >= 3,
            timeout_s=60,
            what="three different seconds",
        )
        drawn = watch.frames()[1:-1]
        fifo.write_text("")
        page = watch.finished()

    assert all(len(frame) <= 24 and max(len(line) for line in frame) <= 80 for frame in drawn)
    first = [line.split()[:2] for line in drawn[-1][drawn[-1].index("") + 2 :][:2]]
    assert first == [["last", "running"], ["bad", "failed"]]
    assert drawn[-1][-1].startswith("and ")
    assert any(line.startswith("t39") for line in page)
    assert watch.process.returncode == 0


def waits_for_retry(sandbox: Sandbox) -> bool:
    """Whether the run waits for the next try of its task, and for nothing before."""
    waiting = sandbox.json("dag", "status", "later")["runs"][0]["waiting"]
    return bool(waiting) and waiting["reason"] == "retry"


def test_times_are_in_one_zone_that_of_the_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    task = {"id": "t", "command": "exit 1", "max_retries": 1, "retry_delay": "1h"}
    document = write_dag(tmp_path, {"dag_id": "later", "tasks": [task]})
    env = {**sandbox.env, "TZ": "Asia/Kolkata"}
    running = subprocess.Popen([sys.executable, "-m", "cis", "dag", "run", document], env=env, stderr=subprocess.PIPE)
    wait_for(lambda: sandbox.json("dag", "list"), timeout_s=60, what="the run")
    wait_for(lambda: waits_for_retry(sandbox), timeout_s=60, what="the retry")
    view = sandbox.json("dag", "status", "later")["runs"][0]
    lines = Terminal("dag", "status", "later", env=env, columns=200).finished()
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)

    assert view["waiting"]["until"].endswith("Z")
    assert not any("Z" in line.split("NOTE")[-1] for line in lines)
    until = next(line for line in lines if "waits for its retry at" in line).rpartition(" at ")[2]
    created = next(line for line in lines if ID.match(line)).split()[2:4]
    assert until > " ".join(created)
