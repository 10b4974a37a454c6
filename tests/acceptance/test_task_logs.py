"""What tasks write, as people see it: every line, in order, while they run and afterwards; and no more than may be kept."""

from __future__ import annotations

from tests.worlds.harness import Sandbox, write_dag
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
