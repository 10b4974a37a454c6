"""Row by row through the table of commands: what each prints, with ``--json`` and without, and how it exits."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.harness import Sandbox, write_dag

HELLO = {
    "dag_id": "proj-a-hello",
    "description": "says hello",
    "tasks": [
        {"id": "one", "command": "echo hello; echo who=world >> $CIS_OUTPUT"},
        {"id": "two", "command": "echo oops >&2; exit 3", "depends_on": ["one"]},
    ],
}
SUBMISSION = {
    "run_id",
    "dag_id",
    "status",
    "scope",
    "scope_source",
    "worker_id",
    "node_id",
    "target_node",
    "delivery",
}
LISTED = {"dag_id", "run_id", "scope", "status", "owner_node", "priority", "created_at"}
RUN = {"run_id", "status", "version", "created_at", "started_at", "finished_at", "tasks"}
TASK = {"id", "status", "attempts", "exit_code", "started_at", "finished_at", "outputs"}
LOG = {"run_id", "task_id", "attempt", "status", "exit_code", "output", "error"}
WORKER = {
    "worker_id",
    "scope",
    "status",
    "pid",
    "node_id",
    "started_at",
    "heartbeat_at",
    "runs_done",
    "current_run",
}


@pytest.fixture
def ran(sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """A home in which a DAG has run and failed; no node runs."""
    sandbox.json("dag", "run", write_dag(tmp_path, HELLO), expect=1)
    return sandbox


def test_a_run_without_a_node_happens_here_says_so_and_exits_with_1_when_the_dag_failed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = write_dag(tmp_path, HELLO)
    text = sandbox.cis("dag", "run", path)
    answer = sandbox.json("dag", "run", path, expect=1)

    assert text.returncode == 1
    assert "no node is running" in text.stderr
    assert "two: failed (exit status 3)" in text.stderr
    assert set(answer) >= SUBMISSION
    assert answer["status"] == "failed"
    assert answer["scope"] == {"type": "project", "id": "proj-a"}
    assert answer["worker_id"] == "worker-project-proj-a"


def test_a_document_can_be_read_from_standard_input_and_its_fields_overridden(sandbox: Sandbox) -> None:
    document = json.dumps({"dag_id": "d", "tasks": [{"id": "t", "command": "pwd"}]})
    answer = sandbox.json("dag", "run", "-", "--scope", "user:u1", "--priority", "Urgent", stdin=document)
    listed = sandbox.json("dag", "list", "--scope", "user:u1")

    assert (answer["status"], answer["scope_source"]) == ("completed", "explicit")
    assert [one["priority"] for one in listed] == ["critical"]
    assert sandbox.json("dag", "logs", "d")[0]["output"].strip() == str(Path.cwd())


def test_tasks_run_in_the_folder_of_their_document(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    tasks = [{"id": "a", "command": "pwd"}, {"id": "b", "command": "pwd", "cwd": "sub"}]
    sandbox.json("dag", "run", write_dag(tmp_path, {"dag_id": "d", "tasks": tasks}))
    logs = {one["task_id"]: one["output"].strip() for one in sandbox.json("dag", "logs", "d")}

    assert logs == {"a": str(tmp_path), "b": str(tmp_path / "sub")}


def test_list_status_and_logs_work_with_no_node_running(ran: Sandbox) -> None:
    listed = ran.json("dag", "list")
    status = ran.json("dag", "status", "proj-a-hello")
    logs = ran.json("dag", "logs", "proj-a-hello")
    table = ran.cis("dag", "list").stdout
    page = ran.cis("dag", "status", "proj-a-hello").stdout
    text = ran.cis("dag", "logs", "proj-a-hello")

    assert [set(one) >= LISTED for one in listed] == [True]
    assert set(status) == {"dag", "runs"}
    assert set(status["runs"][0]) >= RUN
    tasks = status["runs"][0]["tasks"]
    assert all(set(task) >= TASK for task in tasks)
    assert [(task["status"], task["exit_code"], task["attempts"]) for task in tasks] == [
        ("completed", 0, 1),
        ("failed", 3, 1),
    ]
    assert tasks[0]["outputs"] == {"who": "world"}
    assert all(set(one) >= LOG for one in logs)
    assert [(one["output"], one["error"]) for one in logs] == [("hello\n", ""), ("", "oops\n")]
    assert "proj-a-hello" in table
    assert "project:proj-a" in table
    assert "failed" in table
    assert "exit status 3" in page
    assert text.stdout == "==> one <==\nhello\n"
    assert "==> two <==\noops\n" in text.stderr


def test_lists_are_narrowed_by_status_scope_and_node(ran: Sandbox) -> None:
    node = ran.json("node", "status")["node_id"]

    assert len(ran.json("dag", "list", "--status", "failed", "--scope", "project:proj-a", "--node", node)) == 1
    assert ran.json("dag", "list", "--status", "completed") == []
    assert ran.json("dag", "list", "--scope", "global") == []
    assert ran.json("dag", "list", "--node", "elsewhere") == []
    assert ran.cis("dag", "list", "--status", "faild").returncode == 2
    assert ran.cis("dag", "list", "--limit", "0").returncode == 2


def test_logs_can_be_narrowed_to_a_task_and_an_attempt(ran: Sandbox) -> None:
    assert [one["task_id"] for one in ran.json("dag", "logs", "proj-a-hello", "--task", "two")] == ["two"]
    assert len(ran.json("dag", "logs", "proj-a-hello", "--task", "two", "--attempt", "1")) == 1
    assert ran.cis("dag", "logs", "proj-a-hello", "--task", "three").returncode == 3
    assert ran.cis("dag", "logs", "proj-a-hello", "--follow").stdout == "==> one <==\nhello\n"
    assert ran.cis("dag", "logs", "proj-a-hello", "--task", "one").stdout == "hello\n"


def test_a_home_that_is_new_answers_with_empty_lists(sandbox: Sandbox) -> None:
    assert sandbox.json("dag", "list") == []
    assert sandbox.json("dag", "worker", "list") == []
    assert sandbox.json("dag", "definitions") == []
    assert stat.S_IMODE(sandbox.home.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "arguments",
    [
        ("dag", "status", "nothing"),
        ("dag", "logs", "nothing"),
        ("dag", "cancel", "nothing"),
        ("dag", "pause", "nothing"),
        ("dag", "resume", "nothing"),
        ("dag", "rerun", "nothing"),
        ("dag", "worker", "status", "worker-global"),
        ("token", "revoke", "nothing"),
        ("db", "restore", "nothing"),
    ],
)
def test_what_is_not_there_is_not_found(sandbox: Sandbox, arguments: tuple[str, ...]) -> None:
    done = sandbox.cis(*arguments)

    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("cis: no ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dga",),
        ("dag",),
        ("dag", "lst"),
        ("dag", "run"),
        ("dag", "run", "/nowhere.yaml"),
        ("dag", "list", "--nope"),
        ("worker", "run", "--id", "worker-global", "--scope", "team:x"),
        ("worker", "run", "--id", "worker-global", "--scope", "project:x"),
        ("token", "create", "x", "--may", "everything"),
        ("token", "create", "owner"),
    ],
)
def test_bad_usage_exits_with_2_and_says_how_to_go_on(sandbox: Sandbox, arguments: tuple[str, ...]) -> None:
    done = sandbox.cis(*arguments)

    assert done.returncode == 2
    assert done.stderr.startswith("cis: ")
    assert "Traceback" not in done.stderr


def test_a_word_that_is_almost_a_command_is_corrected(sandbox: Sandbox) -> None:
    assert "did you mean 'dag'" in sandbox.cis("dga").stderr
    assert "did you mean 'list'" in sandbox.cis("dag", "lst").stderr


def test_what_is_over_cannot_be_cancelled_paused_or_resumed(ran: Sandbox) -> None:
    for command in ("cancel", "pause", "resume"):
        done = ran.cis("dag", command, "proj-a-hello")
        assert done.returncode == 4, command
        assert f"is failed already, so there is nothing to {command}" in done.stderr


def test_validate_says_what_would_run_or_every_fault(sandbox: Sandbox, tmp_path: Path) -> None:
    good = sandbox.json("dag", "validate", write_dag(tmp_path, HELLO))
    text = sandbox.cis("dag", "validate", write_dag(tmp_path, HELLO))
    bad = sandbox.cis("dag", "validate", write_dag(tmp_path, {"dag_id": "..", "tasks": []}, name="bad.json"))

    assert (good["scope_source"], good["worker_id"]) == ("dag_id", "worker-project-proj-a")
    assert good["levels"] == [["one"], ["two"]]
    assert "worker-project-proj-a" in text.stdout
    assert bad.returncode == 2
    assert "dag_id" in bad.stderr
    assert "tasks" in bad.stderr
    assert sandbox.json("dag", "list") == []


def test_a_dag_is_stored_listed_and_run_by_name_as_a_task(sandbox: Sandbox, tmp_path: Path) -> None:
    stored = {"dag_id": "inner", "description": "d", "tasks": [{"id": "t", "command": "echo v=7 >> $CIS_OUTPUT"}]}
    saved = sandbox.json("dag", "save", write_dag(tmp_path, stored))
    outer = {"dag_id": "outer", "tasks": [{"id": "call", "skill": "dag", "params": {"dag_id": "inner"}}]}
    sandbox.json("dag", "run", write_dag(tmp_path, outer, name="outer.json"))

    assert saved["dag_id"] == "inner"
    assert [one["dag_id"] for one in sandbox.json("dag", "definitions")] == ["inner"]
    assert "inner" in sandbox.cis("dag", "definitions").stdout
    task = sandbox.json("dag", "status", "outer")["runs"][0]["tasks"][0]
    assert (task["status"], task["outputs"]["v"]) == ("completed", "7")


def test_the_schema_is_a_json_schema(sandbox: Sandbox) -> None:
    assert "tasks" in sandbox.json("dag", "schema")["properties"]


def test_init_makes_a_home_once_and_is_harmless_when_repeated(sandbox: Sandbox) -> None:
    first = sandbox.json("init", "--node-id", "laptop")
    again = sandbox.json("init")
    other = sandbox.cis("init", "--node-id", "desktop")
    shown = sandbox.json("node", "status")

    assert first["node_id"] == again["node_id"] == shown["node_id"] == "laptop"
    assert first["public_key"] == again["public_key"] == shown["public_key"]
    assert len(first["public_key"]) == 44
    assert other.returncode == 4
    for name in ("token", "node.key"):
        assert stat.S_IMODE((sandbox.home / name).stat().st_mode) == 0o600
    assert sandbox.cis("config", "check").returncode == 0
    assert shown["url"] is None


def test_two_processes_that_make_a_home_at_once_agree(sandbox: Sandbox) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-m", "cis", "init", "--json"], env=dict(sandbox.env), stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    answers = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]

    assert len({answer["public_key"] for answer in answers}) == 1


def test_config_check_reports_every_fault_at_once(sandbox: Sandbox) -> None:
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text(
        '[node]\nport = 99999\nlables = ["x"]\n[worker]\nslots = 0\nidle_timeout = "soon"\n[wrker]\n'
    )
    done = sandbox.cis("config", "check")
    view = sandbox.json("config", "check", expect=2)

    assert done.returncode == 2
    for words in ("node.port", "did you mean 'labels'", "worker.slots", "worker.idle_timeout", "did you mean 'worker'"):
        assert words in done.stderr
    assert len(view["faults"]) == 5
    assert sandbox.cis("dag", "run", "-", stdin="{}").returncode == 2


def test_config_check_in_json_is_one_document_also_where_the_home_or_the_variable_is_refused(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.json("init", "--node-id", "one")
    with (sandbox.home / "cis.toml").open("a") as file:
        file.write('[secrets]\nGONE = {file = "gone"}\n')
    (tmp_path / "file").touch()
    other = Sandbox(sandbox.home, {**sandbox.env, "CIS_NODE_ID": "two"}).json("config", "check", expect=2)
    file = Sandbox(sandbox.home, {**sandbox.env, "CIS_HOME": str(tmp_path / "file")}).json("config", "check", expect=2)

    assert [fault["place"] for fault in other["faults"]] == ["CIS_NODE_ID", "cis.toml: secrets.GONE"]
    assert "this home is node 'one'" in other["faults"][0]["message"]
    assert [fault["place"] for fault in file["faults"]] == [str(tmp_path / "file")]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(sandbox: Sandbox) -> None:
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / "cis.toml").write_text('[node]\nid = "from-file"\n[worker]\nslots = 3\nmax_workers = 5\n')
    from_env = Sandbox(sandbox.home, {**sandbox.env, "CIS_SLOTS": "7"})
    shown = from_env.json("config", "show")

    assert (shown["node_id"], shown["slots"], shown["max_workers"]) == ("from-file", 7, 5)
    with from_env.node("--node-id", "from-flag") as node:
        assert node.call("GET", "/api/v1/nodes").body["items"][0]["node_id"] == "from-flag"


def test_skills_are_listed_with_their_source_and_triggers(sandbox: Sandbox) -> None:
    skills = {one["name"]: one for one in sandbox.json("skill", "list")}

    assert {"shell", "http", "python", "dag"} <= set(skills)
    assert any("POST /api/v1/dag/execute" in trigger for trigger in skills["dag"]["triggers"])
    assert any("cis dag run" in trigger for trigger in skills["dag"]["triggers"])
    assert "dag" in sandbox.cis("skill", "list").stdout


def test_tokens_open_what_they_may_and_are_kept_as_hashes(sandbox: Sandbox) -> None:
    reader = sandbox.json("token", "create", "reader", "--may", "read")["token"]
    own = sandbox.json("token", "show")["token"]
    document = {"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}
    with sandbox.node() as node:
        reads = node.call("GET", "/api/v1/runs", token=reader).status
        executes = node.call("POST", "/api/v1/dag/execute", body=document, token=reader).status
        wrong = node.call("GET", "/api/v1/runs", token="wrong").status
        nobody = node.call("GET", "/api/v1/runs", token=None).status
        rotated = sandbox.json("token", "rotate")["token"]
        old = node.call("GET", "/api/v1/runs", token=own).status
        new = node.call("GET", "/api/v1/runs", token=rotated).status

    assert (reads, executes, wrong, nobody, old, new) == (200, 403, 401, 401, 401, 200)
    assert [one["name"] for one in sandbox.json("token", "list")] == ["reader"]
    assert reader not in (sandbox.home / "cis.db").read_bytes().decode("latin-1")
    assert sandbox.cis("token", "create", "reader").returncode == 4
    assert sandbox.json("token", "revoke", "reader")["revoked"]
    actions = [entry["action"] for entry in sandbox.json("audit")]
    assert actions[0] == "token.revoke"
    assert {"token.create", "token.rotate"} <= set(actions)


def test_a_backup_taken_while_the_node_runs_can_be_restored(ran: Sandbox, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    with ran.node():
        ran.json("db", "backup", str(backup))
        refused = ran.cis("db", "restore", str(backup))
    ran.json("dag", "run", write_dag(tmp_path, {"dag_id": "later", "tasks": [{"id": "t", "command": "true"}]}))
    restored = ran.json("db", "restore", str(backup))

    assert refused.returncode == 4
    assert [one["dag_id"] for one in ran.json("dag", "list")] == ["proj-a-hello"]
    assert Path(restored["kept"]).exists()
    assert ran.json("db", "check")["ok"]
    assert ran.json("db", "migrate")["migrated"]
    assert ran.cis("db", "backup", str(backup)).returncode == 4


def test_the_doctor_finds_what_is_wrong_and_names_the_mend(sandbox: Sandbox) -> None:
    sandbox.json("init")
    healthy = sandbox.json("doctor")
    os.chmod(sandbox.home / "token", 0o644)  # noqa: PTH101 - to the very mode
    (sandbox.home / "cis.toml").write_text("[node]\nport = 'x'\n")
    sick = sandbox.json("doctor", expect=1)
    faults = [finding for finding in sick["findings"] if not finding["ok"]]

    assert healthy["ok"]
    assert any("chmod 600" in finding["mend"] for finding in faults)
    assert any("node.port" in finding["fault"] for finding in faults)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(sandbox: Sandbox, shell: str) -> None:
    assert "cis" in sandbox.cis("completion", shell).stdout


def test_completion_offers_commands_and_the_ids_in_the_database(ran: Sandbox) -> None:
    def offered(line: str) -> list[str]:
        variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
        done = subprocess.run(
            [sys.executable, "-c", "import os; os.dup2(1, 8); from cis.cli.main import main; main()"],
            env={**ran.env, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [word.strip() for word in done.stdout.split("\n") if word.strip()]

    assert "status" in offered("cis dag sta")
    assert "proj-a-hello" in offered("cis dag status proj")


def test_a_worker_is_listed_and_shown_while_it_lives(sandbox: Sandbox) -> None:
    with sandbox.node() as node:
        node.finished(node.execute({"dag_id": "d", "tasks": [{"id": "t", "command": "true"}]}).body["run_id"])
        listed = sandbox.json("dag", "worker", "list")
        shown = sandbox.json("dag", "worker", "status", "worker-global")
        status = sandbox.json("node", "status")
        again = sandbox.cis("glm", "start", "--port", "0")

    assert [set(one) >= WORKER for one in listed] == [True]
    assert shown["runs_done"] == 1
    assert shown["status"] == "idle"
    assert status["url"] == node.url
    assert status["workers"] == 1
    assert again.returncode == 4
    assert sandbox.json("dag", "worker", "list") == []
    assert [one["status"] for one in sandbox.json("dag", "worker", "list", "--all")] == ["stopped"]


def test_with_a_node_a_run_is_handed_over_and_waited_for_only_when_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_dag(tmp_path, {"dag_id": "d", "tasks": [{"id": "t", "command": "echo out; sleep 0.2"}]})
    bad = write_dag(tmp_path, {"dag_id": "b", "tasks": [{"id": "t", "command": "false"}]}, name="bad.json")
    with sandbox.node():
        first = sandbox.json("dag", "run", path)
        waited = sandbox.json("dag", "run", path, "--wait")
        followed = sandbox.cis("dag", "run", path, "--follow")
        failed = sandbox.cis("dag", "run", bad, "--wait")
        same = [sandbox.json("dag", "run", path, "--wait", "--idempotency-key", "k")["run_id"] for _ in range(2)]
        other = sandbox.cis("dag", "run", bad, "--idempotency-key", "k")
        watched = sandbox.cis("dag", "status", "d", "--watch")

    assert first["status"] == "pending"
    assert waited["status"] == "completed"
    assert followed.stdout == "out\n"
    assert failed.returncode == 1
    assert same[0] == same[1]
    assert other.returncode == 4
    assert "completed" in watched.stdout


def test_one_worker_on_two_target_nodes_is_refused_with_both_sides_named(sandbox: Sandbox, tmp_path: Path) -> None:
    def dag(target: str) -> dict[str, Any]:
        return {"dag_id": "proj-a-x", "target_node": target, "tasks": [{"id": "t", "command": "sleep 600"}]}

    with sandbox.node("--node-id", "node-1") as node:
        first = node.execute(dag("node-1"))
        second = node.execute(dag("node-2"))
        unknown = sandbox.cis("dag", "run", write_dag(tmp_path, {**dag("node-3"), "dag_id": "other"}))
        node.call("POST", f"/api/v1/runs/{first.body['run_id']}/cancel")
        node.finished(first.body["run_id"], timeout_s=20)

    assert second.status == 409
    assert second.body["code"] == "scope.worker_conflict"
    assert "node-1" in second.body["detail"]
    assert "node-2" in second.body["detail"]
    assert unknown.returncode == 5


def test_the_version_is_told(sandbox: Sandbox) -> None:
    assert sandbox.cis("--version").stdout.startswith("cis ")
