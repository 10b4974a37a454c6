"""Whatever somebody does by command is in the audit log, and no token that was ever shown is anywhere else."""

from __future__ import annotations

import getpass
import os
import pwd
from typing import Any

from tests.worlds.harness import Sandbox, write_dag

DAG = {"dag_id": "d", "tasks": [{"id": "a", "command": "true"}]}


def actions(sandbox: Sandbox, *options: str) -> list[str]:
    """Return the actions of the audit log, oldest first."""
    entries: list[dict[str, Any]] = sandbox.json("audit", *options)
    return [entry["action"] for entry in reversed(entries)]


def test_what_is_done_by_command_is_written_down_with_the_user_who_did_it(sandbox: Sandbox) -> None:
    file = write_dag(sandbox.home.parent, DAG)
    sandbox.json("dag", "run", file, "--idempotency-key", "k")
    sandbox.json("dag", "run", file, "--idempotency-key", "k")  # gives the same run: nothing is done
    sandbox.json("dag", "rerun", "d")
    assert sandbox.cis("dag", "cancel", "d").returncode != 0  # it is over: nothing is done
    sandbox.json("token", "create", "ci")
    sandbox.json("token", "revoke", "ci")
    sandbox.json("token", "rotate")
    backup = sandbox.home.parent / "backup.db"
    sandbox.json("db", "backup", str(backup))
    sandbox.json("db", "restore", str(backup))

    done = ["dag.execute", "run.rerun", "token.create", "token.revoke", "token.rotate", "db.restore"]
    assert actions(sandbox) == done
    me = f"user:{pwd.getpwuid(os.getuid()).pw_name}"
    assert {(entry["actor"], entry["source"]) for entry in sandbox.json("audit")} == {(me, "cli")}
    assert actions(sandbox, "--action", "token") == done[2:5]
    assert actions(sandbox, "--action", "token.revoke", "--actor", me, "--since", "1h") == ["token.revoke"]
    assert actions(sandbox, "--actor", f"user:{getpass.getuser()}-other") == []
    assert sandbox.cis("audit", "--since", "soon").returncode == 2


def test_pausing_resuming_and_cancelling_by_command_are_written_down(sandbox: Sandbox) -> None:
    with sandbox.node() as node:
        run_id = node.execute({"dag_id": "d", "tasks": [{"id": "a", "command": "sleep 600"}]}).body["run_id"]
        for command in ("pause", "resume", "cancel"):
            sandbox.json("dag", command, "d")
        node.finished(run_id)
        entries = [entry for entry in sandbox.json("audit") if entry["subject"] == run_id]

    assert [(entry["action"], entry["source"]) for entry in reversed(entries)] == [
        ("dag.execute", "127.0.0.1"),
        *((f"run.{command}", "cli") for command in ("pause", "resume", "cancel")),
    ]


def test_a_token_is_shown_once_and_stands_in_no_file_of_the_home(sandbox: Sandbox) -> None:
    with sandbox.node() as node:
        shown = sandbox.json("token", "create", "ci", "--may", "execute")["token"]
        old = node.token
        assert node.call("POST", "/api/v1/dag/execute", body=DAG, token=shown).status == 202
        assert node.call("GET", "/api/v1/runs", token=shown).status == 403
        new = sandbox.json("token", "rotate")["token"]
        assert node.call("GET", "/api/v1/runs", token=old).status == 401
        assert node.call("GET", "/api/v1/runs", token=new).status == 200
        told = sandbox.cis("token", "list", "--json").stdout + sandbox.cis("audit", "--json").stdout

        files = [path for path in sandbox.home.rglob("*") if path.is_file()]
        contents = {path.name: path.read_bytes() for path in files}
    for token in (shown, old, new):
        assert token not in told + sandbox.node_log()
        assert [name for name, data in contents.items() if token.encode() in data] == (
            ["token"] if token == new else []
        )
