"""The command line where things go wrong: nobody reads, somebody interrupts, files are damaged, homes are not to be had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import pytest

from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for

CHATTY = {
    "dag_id": "chatty",
    "tasks": [
        {"id": "many", "command": "seq 1 100000"},
        {"id": "slow", "command": "sleep 0.5", "depends_on": ["many"]},
        {"id": "last", "command": "echo done > $OUT/last", "depends_on": ["slow"]},
    ],
}
LONG = {"dag_id": "long", "tasks": [{"id": "t", "command": "echo $$ > $OUT/pid; exec sleep 600"}]}


def dag(folder: Path, document: Mapping[str, object]) -> str:
    """Write a document whose tasks know the folder as ``OUT``."""
    return write_dag(folder, {**document, "env": {"OUT": str(folder)}})


def start(sandbox: Sandbox, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command that is not waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "cis", *arguments],
        env=dict(sandbox.env),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def shell(sandbox: Sandbox, line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which ``cis "$@"`` is the command with these arguments."""
    command: Sequence[str] = ("/bin/sh", "-c", line.replace("cis", f"{sys.executable} -m cis"), "sh", *arguments)
    return subprocess.run(command, env=dict(sandbox.env), capture_output=True, text=True, timeout=60, check=False)


def pid_of_task(folder: Path) -> int:
    """Wait until the long task runs, and return its process."""
    path = folder / "pid"
    return int(wait_for(lambda: path.exists() and path.read_text().strip(), timeout_s=20, what="the task's start"))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that is not yet reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_runs_here_and_is_interrupted_is_cancelled_and_leaves_nothing(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    running = start(sandbox, "dag", "run", dag(tmp_path, LONG))
    task = pid_of_task(tmp_path)
    running.send_signal(number)
    _, told = running.communicate(timeout=30)

    assert running.returncode == 128 + number
    assert "Traceback" not in told
    assert "cancelled: its tasks have 10.0s to end, and are killed then" in told
    assert [one["status"] for one in sandbox.json("dag", "list")] == ["cancelled"]
    assert is_gone(task)


DEAF = ("/bin/sh", "-c", 'trap "" HUP INT QUIT; exec "$@"', "sh", sys.executable, "-m", "cis")
"""As ``nohup`` and a script's background start a command: deaf to what would end it."""


def patient(folder: Path) -> str:
    """Return a document whose tasks say what they ignore, then wait for a file."""
    wait = f"until test -e {folder}/go; do sleep 0.02; done"
    look = f"grep SigIgn /proc/self/status; echo $$ > {folder}/pid; {wait}"
    program = [sys.executable, "-c", "print(open('/proc/self/status').read())"]
    return dag(folder, {"dag_id": "patient", "tasks": [{"id": "t", "command": look}, {"id": "p", "command": program}]})


def ignored(sandbox: Sandbox) -> list[int]:
    """Return for each task which of HUP, INT and QUIT it ignores, as a bit each."""
    found = [one["output"].partition("SigIgn:")[2].split()[0] for one in sandbox.json("dag", "logs", "patient")]
    return [int(mask, 16) & 0b111 for mask in found]


def test_a_run_here_that_was_started_to_ignore_signals_does_and_its_tasks_begin_with_all_at_their_defaults(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    running = subprocess.Popen([*DEAF, "dag", "run", patient(tmp_path)], env=dict(sandbox.env), stderr=subprocess.PIPE)
    pid_of_task(tmp_path)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        running.send_signal(number)
    (tmp_path / "go").touch()
    running.communicate(timeout=30)

    assert running.returncode == 0
    assert ignored(sandbox) == [0, 0]


def test_a_node_that_was_started_to_ignore_signals_does_and_its_tasks_begin_with_all_at_their_defaults(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node(words=DEAF) as node:
        run_id = sandbox.json("dag", "run", patient(tmp_path))["run_id"]
        pid_of_task(tmp_path)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            node.process.send_signal(number)
        (tmp_path / "go").touch()
        status = node.finished(run_id)["status"]

    assert status == "completed"
    assert ignored(sandbox) == [0, 0]


def test_who_stops_waiting_for_a_node_is_told_that_the_run_goes_on_and_how_to_end_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with sandbox.node():
        waiting = start(sandbox, "dag", "run", dag(tmp_path, LONG), "--wait")
        pid_of_task(tmp_path)
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=30)
        run = sandbox.json("dag", "list")[0]
        hint = f"cis dag cancel long --run {run['run_id']}"
        sandbox.cis(*hint.split()[1:])
        cancelled = wait_for(
            lambda: sandbox.json("dag", "list", "--status", "cancelled"), timeout_s=20, what="the end of the run"
        )

    assert waiting.returncode == 130
    assert run["status"] == "running"
    assert hint in told
    assert len(cancelled) == 1


@pytest.mark.parametrize("line", ['cis "$@" | head -1', 'cis "$@" 2>&1 | head -1'])
@pytest.mark.parametrize("more", [[], ["--follow"]])
def test_a_run_here_goes_on_to_its_end_when_nobody_reads_any_more(
    sandbox: Sandbox, tmp_path: Path, line: str, more: list[str]
) -> None:
    done = shell(sandbox, line, "dag", "run", dag(tmp_path, CHATTY), *more)

    assert "Traceback" not in done.stderr
    assert (tmp_path / "last").exists()
    assert [one["status"] for one in sandbox.json("dag", "list")] == ["completed"]


@pytest.mark.parametrize(
    "line",
    ["cis >/dev/full", "cis 2>/dev/full", "cis >&- 2>&- <&-", "PYTHONIOENCODING=latin-1 cis >out", "LC_ALL=C cis >out"],
)
def test_a_run_here_that_cannot_be_shown_goes_on_to_its_end_and_succeeds(
    sandbox: Sandbox, tmp_path: Path, line: str
) -> None:
    tasks = [{"id": "a", "command": "echo '→'; sleep 0.2; echo '→'"}, {"id": "b", "command": "echo end", "deps": ["a"]}]
    document = dag(tmp_path, {"dag_id": "shown", "tasks": tasks})
    line = line.replace("cis", f"cis dag run {document} --follow").replace(">out", f">{tmp_path}/out")
    done = shell(sandbox, line)

    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in sandbox.json("dag", "list")] == ["completed"]
    if "out" in line:
        assert "==> b <==\nend\n" in (tmp_path / "out").read_text()


def test_a_run_here_goes_on_while_nobody_takes_what_it_shows(sandbox: Sandbox, tmp_path: Path) -> None:
    running = start(sandbox, "dag", "run", dag(tmp_path, CHATTY), "--follow")
    wait_for((tmp_path / "last").exists, timeout_s=60, what="the last task")
    said, _ = running.communicate(timeout=60)

    assert running.returncode == 0
    assert [line for line in said.splitlines() if line.isdigit()] == [str(number) for number in range(1, 100_001)]


def test_who_follows_a_run_of_a_node_and_cannot_show_it_still_answers_with_its_status(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tasks = [{"id": "a", "command": "seq 100000"}, {"id": "b", "command": "exit 3", "depends_on": ["a"]}]
    with sandbox.node():
        lines = [f"cis dag run {dag(tmp_path, {'dag_id': 'f', 'tasks': tasks})} --follow >/dev/full; echo $? >&2"]
        lines += [f"{{ cis dag run {tmp_path}/dag.json --follow; echo $? >&2; }} | head -1"]
        lines += [f"cis dag run {tmp_path}/dag.json >/dev/full; echo $? >&2"]
        statuses = [shell(sandbox, line).stderr.splitlines()[-1] for line in lines]

    assert statuses == ["1", "1", "0"]


def test_a_list_whose_reader_has_enough_ends_without_a_word(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "run", dag(tmp_path, CHATTY))
    done = shell(sandbox, "cis dag logs chatty | head -2")

    assert done.stdout == "==> many <==\n1\n"
    assert "Error" not in done.stderr


@pytest.mark.parametrize(
    "line", ["cis dag list >&-", "cis dag list >&- 2>&-", "cis dag status nothing 2>&-; test $? = 3"]
)
def test_a_closed_stream_is_no_fault(sandbox: Sandbox, line: str) -> None:
    done = shell(sandbox, line)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_told_in_one_line(sandbox: Sandbox) -> None:
    done = shell(sandbox, "cis dag list > /dev/full")

    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_watch_tells_each_change_where_there_is_no_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    document = {
        "dag_id": "d",
        "tasks": [
            {"id": "held", "command": f"until test -e {tmp_path}/go; do sleep 0.05; done"},
            {"id": "after", "command": "exit 7", "depends_on": ["held"]},
        ],
    }
    with sandbox.node() as node:
        run_id = node.execute(document).body["run_id"]
        watching = start(sandbox, "dag", "status", "d", "--watch", stderr=subprocess.DEVNULL)
        assert watching.stdout is not None
        lines = [watching.stdout.readline().strip()]
        while not lines[-1].startswith("held: running"):
            lines.append(watching.stdout.readline().strip())
        (tmp_path / "go").touch()
        rest, _ = watching.communicate(timeout=30)

    assert watching.returncode == 0
    assert any(line.startswith(f"{run_id}: ") for line in lines)
    assert "after: failed (exit status 7)" in rest
    assert f"{run_id}: failed" in rest
    assert rest.count("TASK ") == 1
    assert len(lines) == len(set(lines))


def test_a_watch_with_json_prints_one_document_at_the_end(sandbox: Sandbox) -> None:
    sandbox.json("dag", "run", "-", stdin='{"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}')

    assert sandbox.json("dag", "status", "d", "--watch")["runs"][0]["status"] == "completed"


def test_a_dag_that_was_stored_and_never_run_has_a_status(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "save", write_dag(tmp_path, {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}))

    assert sandbox.json("dag", "status", "d")["runs"] == []
    assert sandbox.cis("dag", "status", "d", "--watch").returncode == 0
    assert sandbox.cis("dag", "logs", "d").returncode == 3


@pytest.mark.parametrize("damage", ["garbage", "gone"])
def test_a_backup_is_restored_over_a_damaged_database_and_stays_as_it_is(
    sandbox: Sandbox, tmp_path: Path, damage: str
) -> None:
    sandbox.json("dag", "run", dag(tmp_path, CHATTY))
    backup = tmp_path / "backup.db"
    sandbox.json("db", "backup", str(backup))
    backup.chmod(0o400)
    before = backup.read_bytes()
    database = sandbox.home / "cis.db"
    if damage == "garbage":
        database.write_bytes(b"no database" * 1000)
        assert sandbox.cis("dag", "list").returncode == 1
        assert not sandbox.json("doctor", expect=1)["ok"]
    else:
        database.unlink()
    restored = sandbox.json("db", "restore", str(backup))

    assert [one["dag_id"] for one in sandbox.json("dag", "list")] == ["chatty"]
    assert backup.read_bytes() == before
    assert not list(tmp_path.glob("backup.db-*"))
    assert not list(sandbox.home.glob("cis.db.restoring*"))
    if damage == "garbage":
        assert Path(restored["kept"]).read_bytes() == b"no database" * 1000
    else:
        assert restored["kept"] is None


def test_a_backup_of_a_newer_version_is_refused_by_its_name(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.json("dag", "run", dag(tmp_path, CHATTY))
    sandbox.json("db", "backup", str(tmp_path / "newer"))
    connection = apsw.Connection(str(tmp_path / "newer"))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    done = sandbox.cis("db", "restore", str(tmp_path / "newer"))

    assert done.returncode == 1
    assert f"{tmp_path / 'newer'} has schema 999" in done.stderr
    assert [one["dag_id"] for one in sandbox.json("dag", "list")] == ["chatty"]


@pytest.mark.parametrize("what", ["a letter", "nothing", "half of a database", "a database of somebody else"])
def test_what_is_no_backup_changes_nothing(sandbox: Sandbox, tmp_path: Path, what: str) -> None:
    sandbox.json("dag", "run", dag(tmp_path, CHATTY))
    file = tmp_path / "file"
    if what == "a letter":
        file.write_text("Dear reader, " * 500)
    elif what == "nothing":
        file.touch()
    elif what == "half of a database":
        file.write_bytes((sandbox.home / "cis.db").read_bytes()[:20_000])
    else:
        connection = apsw.Connection(str(file))
        connection.execute("CREATE TABLE letters (id); PRAGMA user_version = 3")
        connection.close()
    done = sandbox.cis("db", "restore", str(file))

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{file} is not a " in done.stderr
    assert "nothing was changed" in done.stderr
    assert [one["dag_id"] for one in sandbox.json("dag", "list")] == ["chatty"]
    assert not list(sandbox.home.glob("cis.db.*"))


def test_a_home_that_cannot_be_made_is_told_with_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Sandbox(tmp_path / "file" / "home", {**sandbox.env, "CIS_HOME": str(tmp_path / "file" / "home")}).cis(
        "dag", "list"
    )

    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--host", "no.such.host.invalid"], 2, "cannot be resolved"),
        (["--host", "x" * 300], 2, "cannot be resolved"),
        (["--host", "192.0.2.1"], 4, "192.0.2.1"),
        (["--port", "70000"], 2, "from 0 to 65535"),
        (["--node-id", "a/b"], 2, "--node-id"),
    ],
)
def test_a_node_that_cannot_start_says_why(sandbox: Sandbox, arguments: list[str], status: int, words: str) -> None:
    done = sandbox.cis("node", "start", "--port", "0", *arguments)

    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_and_the_home_stays_free(sandbox: Sandbox, tmp_path: Path) -> None:
    with sandbox.node() as node:
        other = Sandbox(tmp_path / "other", {**sandbox.env, "CIS_HOME": str(tmp_path / "other")})
        done = other.cis("node", "start", "--port", node.url.rpartition(":")[2])

    assert done.returncode == 4
    assert "127.0.0.1:" in done.stderr
    assert not other.json("node", "status")["running"]


def test_the_doctor_sees_work_that_a_dead_worker_left(sandbox: Sandbox, tmp_path: Path) -> None:
    running = start(sandbox, "dag", "run", dag(tmp_path, LONG))
    task = pid_of_task(tmp_path)
    worker = sandbox.json("dag", "worker", "list")[0]["pid"]
    running.send_signal(signal.SIGSTOP)  # or it would start the worker again, which would not outlive it for long
    os.kill(worker, signal.SIGKILL)
    running.kill()
    running.communicate()
    wait_for(lambda: is_gone(worker), what="the worker's end")
    view = sandbox.json("doctor", expect=1)
    sandbox.cis("dag", "cancel", "long")

    assert any("nobody has taken up its work" in finding["fault"] for finding in view["findings"])
    assert [one["status"] for one in sandbox.json("dag", "list")] == ["cancelled"]
    assert is_gone(task)
    assert sandbox.json("doctor")["ok"]


def test_json_is_for_machines_everywhere(sandbox: Sandbox) -> None:
    for command in ("init", "node status", "dag list", "skill list", "audit", "config show", "token list", "db check"):
        answer = sandbox.cis(*command.split(), "--json")
        assert answer.stderr == ""
        json.loads(answer.stdout)
