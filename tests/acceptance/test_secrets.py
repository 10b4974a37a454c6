"""Secrets, with real nodes: only the tasks that ask have them, and nothing of them is left anywhere."""

from __future__ import annotations

import base64
import json
import os
import signal
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import befriend, ended, make_nodes, running
from tests.worlds.harness import NodeProcess, Sandbox, write_dag
from tests.worlds.waiting import wait_for

VALUE = "s3cr3t/Value+with 'quotes' & more"
OTHER = "another-secret-value"
KEY = "-----BEGIN-----\nfirst-line-of-a-key\nsecond-line-of-a-key\n-----END-----"
# Every form in one go; what a shell can do without help comes first.
PRINT_ALL = """
import base64, json, os, shlex, sys, urllib.parse
value, key = os.environ["S"], os.environ["KEY"]
for text in (value, key):
    for form in (
        text, "\\n".join(text), "\\n  ".join(text[at:at + 7] for at in range(0, len(text), 7)), json.dumps({"v": text}), repr(text),
        shlex.quote(text), urllib.parse.quote(text), urllib.parse.quote_plus(text), "".join("%%%02x" % byte for byte in text.encode()),
        text.encode().hex(), *(base64.b64encode(("x" * n + text + "y").encode()).decode() for n in range(4)),
        base64.urlsafe_b64encode(text.encode()).decode(), base64.encodebytes((text * 3).encode()).decode(),
    ):
        print("out:", form)
        print("err:", form, file=sys.stderr)
with open(os.environ["CIS_OUTPUT"], "a") as file:
    print("plain=" + value, "coded=" + base64.b64encode(value.encode()).decode(), "harmless=1", sep="\\n", file=file)
if os.environ["CIS_ATTEMPT"] == "1":
    with open(os.environ["CIS_OUTPUT"], "a") as file:
        print("no equals sign but " + value, file=file)
"""


def traces(value: str) -> list[bytes]:
    """Return what would give a value away, however it was wrapped."""
    data = value.encode()
    cores = [base64.b64encode(bytes(n) + data)[-(-8 * n // 6) : 8 * (n + len(data)) // 6] for n in range(3)]
    quoted = urllib.parse.quote(value, safe="").encode()
    all_quoted = b"".join(b"%%%02x" % byte for byte in data)
    return [data[:20], data[-12:], data.hex().encode(), quoted[:30], all_quoted[:60], *(c[:40] for c in cores)]


TRACES = [trace for value in (VALUE, OTHER, KEY) for trace in traces(value)]


def found_in(data: bytes) -> list[bytes]:
    """Return the traces that are in *data*, line ends and indentation not counted."""
    joined = data.translate(None, b"\r\n ")
    return [trace for trace in TRACES if trace in data or trace.translate(None, b"\r\n ") in joined]


def found_under(home: Path, *but: str) -> dict[str, list[bytes]]:
    """Return the files under *home* that hold a trace, but for those that are named."""
    files = [path for path in home.rglob("*") if path.is_file() and path.name not in but]
    found = {str(path.relative_to(home)): found_in(path.read_bytes()) for path in files}
    return {name: traces for name, traces in found.items() if traces}


def give_secrets(home: Path, *, value: str = VALUE) -> None:
    """Write a table with one secret of each kind."""
    home.mkdir(mode=0o700, exist_ok=True)
    toml = home / "cis.toml"
    before = toml.read_text() if toml.exists() else ""
    table = f'[secrets]\nKEY = {{file = "key.pem"}}\nOTHER = {{env = "THE_OTHER"}}\nDB_PASSWORD = {json.dumps(value)}\n'
    toml.write_text(f"{before}\n{table}")
    toml.chmod(0o600)
    (home / "key.pem").write_text(KEY + "\n")
    (home / "key.pem").chmod(0o600)


@pytest.fixture
def node(sandbox: Sandbox) -> Iterator[NodeProcess]:
    """A node that has secrets."""
    give_secrets(sandbox.home)
    with sandbox.node(THE_OTHER=OTHER) as node:
        yield node


def asking(**more: Any) -> dict[str, Any]:
    """Return a DAG whose first task asks for secrets and tells them in every form, and whose second does not ask."""
    tell = {
        "id": "tell",
        "command": ["python3", "-c", PRINT_ALL],
        "secrets": {"S": "DB_PASSWORD", "KEY": "KEY", "OTHER": "OTHER"},
        "max_retries": 1,
        "retry_delay": 0,
    }
    look = {
        "id": "look",
        "command": 'env; echo "got $GOT"; echo "seen=$(env | grep -c -e ^S= -e ^KEY= -e OTHER=)" >> "$CIS_OUTPUT"',
        "env": {"GOT": "${tasks.tell.outputs.plain}"},
        "depends_on": ["tell"],
    }
    return {"dag_id": "secretive", "tasks": [tell, look], **more}


def test_nothing_of_a_secret_is_left_anywhere_and_a_task_that_did_not_ask_has_none(
    sandbox: Sandbox, node: NodeProcess
) -> None:
    run_id = node.execute(asking()).body["run_id"]
    run = node.finished(run_id)

    tell, look = run["tasks"]
    assert run["status"] == "completed"
    assert (tell["attempts"], look["outputs"]) == (2, {"seen": "0"})  # the first attempt failed for its outputs
    assert tell["outputs"] == {"plain": "***", "coded": tell["outputs"]["coded"], "harmless": "1"}
    shown = [
        *(json.dumps(node.call("GET", path).body).encode() for path in (f"/api/v1/runs/{run_id}", "/api/v1/runs")),
        *(
            str(node.call("GET", f"/api/v1/runs/{run_id}/logs{query}").body).encode()
            for query in ("", "?task=tell&attempt=1", "?format=text")
        ),
    ]
    for command in (
        ("dag", "status", "secretive"),
        ("dag", "logs", "secretive"),
        ("dag", "logs", "secretive", "--follow"),
        ("dag", "logs", "secretive", "--json"),
        ("config", "show"),
        ("config", "check"),
    ):
        done = sandbox.cis(*command)
        assert done.returncode == 0, done.stderr
        shown.append((done.stdout + done.stderr).encode())
    assert [found_in(text) for text in shown] == [[]] * len(shown)
    assert b"got ***" in shown[6]
    assert shown[6].count(b"***") > 40
    assert found_under(sandbox.home, "cis.toml", "key.pem") == {}
    assert found_in(sandbox.node_log().encode()) == []


def test_a_secret_that_the_node_lacks_fails_the_attempt_in_words(sandbox: Sandbox, node: NodeProcess) -> None:
    document = {"dag_id": "lacking", "tasks": [{"id": "a", "command": "true", "secrets": ["DB_PASSWORT"]}]}

    warned = sandbox.cis("dag", "validate", write_dag(sandbox.home.parent, document))
    run = node.finished(node.execute(document).body["run_id"])

    assert warned.returncode == 0
    assert "asks for the secret DB_PASSWORT" in warned.stderr
    (task,) = run["tasks"]
    assert (task["status"], task["attempts"]) == ("failed", 1)
    assert "no secret 'DB_PASSWORT'" in task["error"]
    assert "cis.toml" in task["error"]


def test_a_secret_that_was_changed_needs_no_restart(sandbox: Sandbox, node: NodeProcess) -> None:
    check = {"id": "a", "command": 'test "$DB_PASSWORD" = "$WANTED"', "secrets": ["DB_PASSWORD"]}

    def status(wanted: str) -> Any:
        document = {"dag_id": "changing", "tasks": [{**check, "env": {"WANTED": wanted}}]}
        return node.finished(node.execute(document).body["run_id"])["status"]

    assert status(VALUE) == "completed"
    toml = sandbox.home / "cis.toml"
    toml.write_text(toml.read_text().replace(json.dumps(VALUE), '"a-new-password"'))

    assert status("a-new-password") == "completed"


def test_a_request_has_its_secret_in_a_header_and_nowhere_else(sandbox: Sandbox, node: NodeProcess) -> None:
    ask = {
        "id": "ask",
        "skill": "http",
        "params": {
            "url": node.url + "/api/v1/nodes?x=${secrets.OTHER}",
            "headers": {"Authorization": "Bearer ${secrets.TOKEN}"},
            "expect": {"status": 200},
        },
        "secrets": ["TOKEN", "OTHER"],
    }
    toml = sandbox.home / "cis.toml"
    toml.write_text(toml.read_text() + 'TOKEN = {file = "token"}\n')

    run = node.finished(node.execute({"dag_id": "asking", "tasks": [ask]}).body["run_id"])

    done = sandbox.cis("dag", "logs", run["dag_id"])
    logs = done.stdout + done.stderr
    assert run["status"] == "completed", logs
    assert "x=***" in logs
    assert found_under(sandbox.home, "cis.toml", "key.pem") == {}
    held = [path for path in sandbox.home.rglob("*") if path.is_file() and node.token.encode() in path.read_bytes()]
    assert [path.name for path in held] == ["token"]


def test_an_output_cannot_bring_a_reference_to_a_secret_along(node: NodeProcess) -> None:
    give = {"id": "give", "command": "echo 'x=${secrets.OTHER}' >> \"$CIS_OUTPUT\""}
    ask = {
        "id": "ask",
        "skill": "http",
        "params": {"url": node.url + "/health", "method": "GET", "headers": {"X": "${tasks.give.outputs.x}"}},
        "secrets": ["OTHER"],
        "depends_on": ["give"],
    }

    run = node.finished(node.execute({"dag_id": "smuggling", "tasks": [give, ask]}).body["run_id"])

    assert "may stand in a document only" in run["tasks"][1]["error"]


def test_a_killed_worker_leaves_no_outputs_with_a_secret_in_them(sandbox: Sandbox, node: NodeProcess) -> None:
    line = 'echo "x=$OTHER" >> "$CIS_OUTPUT"; if [ "$CIS_ATTEMPT" = 1 ]; then touch up; exec sleep 60; fi'
    task = {"id": "a", "command": line, "secrets": ["OTHER"], "cwd": str(sandbox.home.parent)}
    run_id = node.execute({"dag_id": "dying", "tasks": [task]}).body["run_id"]
    wait_for((sandbox.home.parent / "up").exists, timeout_s=30, what="the first attempt")
    assert found_under(sandbox.home, "cis.toml", "key.pem").keys() == {f"logs/.live/{run_id}.0.1.outputs"}
    (pid,) = sandbox.rows("SELECT pid FROM workers WHERE status != 'stopped'")[0]

    os.kill(pid, signal.SIGKILL)

    run = node.finished(run_id)
    assert (run["status"], run["tasks"][0]["attempts"]) == ("completed", 2)
    assert found_under(sandbox.home, "cis.toml", "key.pem") == {}


def test_another_node_uses_its_own_values_and_nothing_of_them_comes_back(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    give_secrets(one.sandbox.home, value="the-value-of-node-1")
    give_secrets(two.sandbox.home)
    two.start(THE_OTHER=OTHER)
    with running(one, two):
        answer = one.api.execute(asking(target_node="node-2"))
        run = ended(one, answer.body["run_id"])

        assert run["status"] == "completed"
        assert run["tasks"][0]["outputs"]["plain"] == "***"
        done = one.sandbox.cis("dag", "logs", run["dag_id"])
        logs = done.stdout + done.stderr
        assert logs.count("***") > 40
        assert found_in(logs.encode()) == []
    for node in (one, two):
        assert found_under(node.sandbox.home, "cis.toml", "key.pem") == {}
    told = [path for path in two.sandbox.home.rglob("*") if path.is_file() and b"value-of-node-1" in path.read_bytes()]
    assert told == []


def test_doctor_finds_values_that_others_can_read_and_check_a_file_that_is_refused(sandbox: Sandbox) -> None:
    give_secrets(sandbox.home)
    assert sandbox.cis("config", "check").returncode == 0
    (sandbox.home / "cis.toml").chmod(0o644)
    (sandbox.home / "key.pem").chmod(0o644)

    doctor, check = sandbox.json("doctor", expect=1), sandbox.cis("config", "check")

    wrong = [one for one in doctor["findings"] if not one["ok"]]
    assert [one["mend"] for one in wrong] == [f"chmod 600 {sandbox.home / 'cis.toml'}"]
    assert check.returncode != 0
    assert f"chmod 600 {sandbox.home / 'key.pem'}" in check.stderr
    assert found_in((json.dumps(doctor) + check.stdout + check.stderr).encode()) == []


def test_config_check_names_settings_and_secrets_at_once(sandbox: Sandbox) -> None:
    """Also where scopes are wrong, which a secret's own reader would stop at."""
    sandbox.json("init")
    text = '[worker]\nslots = -1\n[scope."project:*"]\nslot = 1\n[secrets]\nGONE = {file = "gone"}\nSHORT = "abc"\n'
    with (sandbox.home / "cis.toml").open("a") as file:
        file.write(text + 'STRANGE = {file = "gone", scopes = ["proj:x"]}\n')
    said = sandbox.json("config", "check", expect=2)

    assert sorted(fault["place"] for fault in said["faults"]) == [
        'cis.toml: scope."project:*".slot', "cis.toml: secrets.GONE", "cis.toml: secrets.SHORT",
        "cis.toml: secrets.STRANGE", "cis.toml: worker.slots",
    ]  # fmt: skip
    assert "has wrong scopes: 'proj:x' is not a scope" in str(said)


def test_config_check_warns_of_a_scope_that_may_have_a_secret_that_is_none(sandbox: Sandbox) -> None:
    """A name written wrong would allow nothing, and nobody would see why."""
    sandbox.json("init")
    with (sandbox.home / "cis.toml").open("a") as file:
        file.write('[scope."project:a"]\nsecrets = ["API_KEY", "DB_PASWORD"]\n[secrets]\n')
        file.write('API_KEY = "value-1"\nDB_PASSWORD = "value-2"\n')
    said, done = sandbox.json("config", "check"), sandbox.cis("config", "check")

    (warning,) = said["warnings"]
    assert said["ok"]
    assert warning.startswith('cis.toml: scope."project:a".secrets names DB_PASWORD')
    assert "did you mean 'DB_PASSWORD'" in warning
    assert done.returncode == 0
    assert done.stderr == f"warning: {warning}\n"
