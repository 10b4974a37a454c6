"""What a node grants to scopes, with real nodes: their own bounds, variables and secrets, and nothing of others."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.worlds.cluster import befriend, ended, make_nodes, running
from tests.worlds.harness import NodeProcess, Sandbox, write_dag
from tests.worlds.waiting import wait_for

SETTINGS = """
[worker]
slots = 4
[secrets]
FOR_A = {env = "VALUE_OF_A", scopes = ["project:a"]}
FOR_ALL = {env = "VALUE_OF_ALL"}
[scope."project:*"]
env = {TIER = "test", WHO = "projects"}
[scope."project:a"]
slots = 1
env = {WHO = "a"}
[scope."project:closed"]
secrets = []
"""


def settings(sandbox: Sandbox, text: str) -> None:
    """Write ``cis.toml``."""
    sandbox.home.mkdir(mode=0o700, exist_ok=True)
    (sandbox.home / "cis.toml").write_text(text)


def asking(scope: str, secret: str) -> dict[str, Any]:
    """Return a DAG of *scope* whose task asks for a secret."""
    return {"dag_id": "asks", "scope": scope, "tasks": [{"id": "t", "command": "true", "secrets": [secret]}]}


def printed(node: NodeProcess, document: dict[str, Any]) -> str:
    """Run a DAG of one task and return what it printed."""
    accepted = node.execute(document)
    assert accepted.status == 202, accepted.body
    run = node.finished(accepted.body["run_id"])
    logs = node.call("GET", f"/api/v1/runs/{run['run_id']}/logs").body["items"]
    return "".join(one["output"] for one in logs)


def test_a_secret_that_a_scope_may_not_have_is_refused_when_the_dag_comes_and_for_children_when_they_start(
    sandbox: Sandbox,
) -> None:
    settings(sandbox, SETTINGS)
    with sandbox.node(VALUE_OF_A="the-value-of-a", VALUE_OF_ALL="the-value-of-all") as node:
        assert node.finished(node.execute(asking("project:a", "FOR_A")).body["run_id"])["status"] == "completed"
        assert node.finished(node.execute(asking("project:b", "FOR_ALL")).body["run_id"])["status"] == "completed"
        refused = node.execute(asking("project:b", "FOR_A"))
        closed = node.execute(asking("project:closed", "FOR_ALL"))
        inner = {"dag_id": "outer", "scope": "project:a", "tasks": [dag_task(asking("project:b", "FOR_A"))]}
        parent = node.finished(node.execute(inner).body["run_id"])

    assert refused.status == closed.status == 422
    (fault,) = refused.body["errors"]
    assert fault["place"] == "tasks[0].secrets"
    assert "scope project:b may not have the secret FOR_A" in fault["message"]
    assert "secrets.FOR_A.scopes" in fault["message"]
    assert "scope project:closed may not have the secret FOR_ALL" in closed.body["detail"]
    assert parent["status"] == "failed"
    assert "scope project:b may not have the secret FOR_A" in parent["tasks"][0]["error"]


def dag_task(document: dict[str, Any]) -> dict[str, Any]:
    return {"id": "child", "skill": "dag", "params": {"document": document}}


def test_the_shell_refuses_such_a_dag_with_status_2_also_when_it_only_looks_or_stores(sandbox: Sandbox) -> None:
    settings(sandbox, SETTINGS)
    path = str(write_dag(sandbox.home.parent, asking("project:b", "FOR_A")))

    for words in (("validate", path), ("save", path), ("run", path)):
        done = sandbox.cis("dag", *words)
        assert done.returncode == 2
        assert "scope project:b may not have the secret FOR_A" in done.stderr
    assert sandbox.json("dag", "list") == []


def test_a_task_has_the_variables_of_its_scope_under_those_of_its_dag(sandbox: Sandbox) -> None:
    settings(sandbox, SETTINGS)
    show = {"id": "t", "command": "echo $TIER $WHO"}
    with sandbox.node() as node:
        assert printed(node, {"dag_id": "d", "scope": "project:a", "tasks": [show]}) == "test a\n"
        assert printed(node, {"dag_id": "d", "scope": "project:b", "tasks": [show]}) == "test projects\n"
        assert printed(node, {"dag_id": "d", "scope": "user:u", "tasks": [show]}) == "\n"
        own = {"dag_id": "d", "scope": "project:a", "env": {"WHO": "dag"}, "tasks": [show]}
        assert printed(node, own) == "test dag\n"
        own["tasks"] = [{**show, "env": {"TIER": "task"}}]
        assert printed(node, own) == "task dag\n"


def test_a_scope_has_its_own_number_of_slots(sandbox: Sandbox) -> None:
    settings(sandbox, SETTINGS)
    tasks = [{"id": f"t{number}", "command": "sleep 0.05"} for number in range(6)]
    with sandbox.node() as node:
        run_id = node.execute({"dag_id": "d", "scope": "project:a", "tasks": tasks}).body["run_id"]
        node.finished(run_id)
        slots = {one["worker_id"]: one["slots"] for one in node.call("GET", "/api/v1/workers").body["items"]}

    times = sandbox.rows(
        "SELECT started_at_us, finished_at_us FROM task_executions WHERE run_id = ? ORDER BY 1", (run_id,)
    )
    assert slots == {"worker-project-a": 1}
    assert all(start >= end for (_, end), (start, _) in pairwise(times))


def test_all_faults_of_the_tables_are_reported_at_once_and_what_holds_is_shown(sandbox: Sandbox) -> None:
    settings(sandbox, SETTINGS)
    shown = sandbox.json("config", "show")["scopes"]
    settings(sandbox, '[scope."x"]\nslots = 0\n[secrets]\nA = {env = "B", scopes = ["y"]}\n')
    checked = sandbox.json("config", "check", expect=2)

    assert shown["project:a"] == {"slots": 1, "env": {"WHO": "a"}}
    assert {fault["place"] for fault in checked["faults"]} == {
        'cis.toml: scope."x"',
        'cis.toml: scope."x".slots',
        "cis.toml: secrets.A",
    }


def limited(sandbox: Sandbox, scopes: str) -> str:
    """Make a token that may do everything in some scopes."""
    made = sandbox.json("token", "create", "limited", "--may", "read,execute,control", "--scopes", scopes)
    assert made["scopes"] == scopes.split(",")
    return str(made["token"])


def with_child(scope: str, child: str) -> dict[str, Any]:
    """Return a DAG whose task is a DAG of another scope."""
    inner = {"dag_id": "inner", "scope": child, "tasks": [{"id": "t", "command": "true"}]}
    return {"dag_id": "outer", "scope": scope, "tasks": [dag_task(inner)]}


def test_what_a_token_may_not_run_its_runs_may_not_start_nor_those_of_whoever_repeats_them(sandbox: Sandbox) -> None:
    token = limited(sandbox, "project:a,user:*")
    with sandbox.node() as node:

        def post(path: str, body: dict[str, Any], **headers: str) -> Any:
            return node.call("POST", path, body=body, headers=headers, token=token)

        refused = post("/api/v1/dag/execute", with_child("project:b", "project:a"))
        outer = post("/api/v1/dag/execute", with_child("project:a", "project:b")).body["run_id"]
        deeper = with_child("project:a", "user:u")
        deeper["tasks"][0]["params"]["document"]["tasks"] = [dag_task(asking("project:b", "NONE"))]
        nested = post("/api/v1/dag/execute", deeper).body["run_id"]
        fine = post("/api/v1/dag/execute", with_child("project:a", "user:u")).body["run_id"]
        ends = [node.finished(run_id) for run_id in (outer, nested, fine)]
        again = node.finished(node.call("POST", f"/api/v1/runs/{outer}/rerun").body["run_id"])
        by_owner = node.finished(node.execute(with_child("project:a", "project:b")).body["run_id"])
        own = node.finished(post("/api/v1/dag/execute", with_child("project:a", "user:u")).body["run_id"])

    assert refused.status == 403
    assert refused.body["code"] == "scope.forbidden"
    assert [run["status"] for run in ends] == ["failed", "failed", "completed"]
    assert "may not run DAGs of scope project:b, only of project:a, user:*" in ends[0]["tasks"][0]["error"]
    assert again["status"] == "failed"  # the owner who repeats a run lends it no rights
    assert by_owner["status"] == own["status"] == "completed"
    listed = sandbox.json("token", "list")
    assert [one["scopes"] for one in listed] == [["project:a", "user:*"]]


def test_scopes_that_are_none_are_refused_and_named(sandbox: Sandbox) -> None:
    refused = sandbox.cis("token", "create", "x", "--scopes", "projects:a")

    assert refused.returncode == 2
    assert "'projects:a' is not a scope" in refused.stderr
    assert sandbox.json("token", "list") == []


def test_a_peer_runs_dags_in_the_scopes_that_it_is_trusted_with_and_no_others(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    trusted = two.sandbox.json("node", "trust", "node-1", one.public_key, "--url", one.url, "--scopes", "project:*")
    assert trusted["scopes"] == ["project:*"]

    def sent(document: dict[str, Any], **headers: str) -> str:
        return str(one.api.execute({**document, "target_node": "node-2"}, **headers).body["run_id"])

    with running(one, two):
        token = limited(one.sandbox, "project:a,user:*")
        elsewhere = ended(one, sent({"dag_id": "d", "scope": "user:u", "tasks": [{"id": "t", "command": "true"}]}))
        reaching = ended(one, sent(with_child("project:a", "global")))
        fine = ended(one, sent(with_child("project:a", "project:b")))
        # What its origin does not allow travels with it.
        answer = one.api.call(
            "POST",
            "/api/v1/dag/execute",
            body={**with_child("project:a", "project:b"), "target_node": "node-2"},
            token=token,
        )
        by_token = ended(one, answer.body["run_id"])
        long = sent({"dag_id": "long", "scope": "project:b", "tasks": [{"id": "t", "command": "sleep 60"}]})
        wait_for(lambda: one.api.run(long)["status"] == "running", timeout_s=30, what="the long run to start")
        again = two.sandbox.json("node", "trust", "node-1", one.public_key, "--may", "execute,control,read")
        two.sandbox.json("node", "trust", "node-1", one.public_key, "--scopes", "project:a")
        narrowed = ended(one, long)

    assert elsewhere["status"] == "failed"
    assert "node 'node-1' may not run DAGs of scope user:u, only of project:*" in elsewhere["error"]
    assert reaching["status"] == "failed"
    assert "may not run DAGs of scope global" in reaching["tasks"][0]["error"]
    assert fine["status"] == "completed"
    assert by_token["status"] == "failed"
    assert "may not run DAGs of scope project:b, only of project:a" in by_token["tasks"][0]["error"]
    assert again["scopes"] == ["project:*"]  # what is not said again stays
    assert narrowed["status"] == "cancelled"


def test_a_dag_that_contains_itself_ends_at_once_and_keeps_nobody_out(sandbox: Sandbox, tmp_path: Path) -> None:
    settings(sandbox, "[queue]\nmax_queued = 100\n")
    bomb = {
        "dag_id": "bomb",
        "tasks": [{"id": f"t{n}", "skill": "dag", "params": {"dag_id": "bomb"}} for n in range(20)],
    }
    sandbox.json("dag", "save", write_dag(tmp_path, bomb))
    other = {"dag_id": "o", "scope": "project:o", "tasks": [{"id": "a", "command": "true"}]}
    with sandbox.node() as node:
        exploded = node.finished(node.execute(bomb).body["run_id"])
        fine = node.finished(node.execute(other).body["run_id"])

    assert exploded["status"] == "failed"
    assert {task["error"].partition(";")[0] for task in exploded["tasks"]} == {
        "params.dag_id: DAG 'bomb' would start itself: bomb -> bomb"
    }
    assert fine["status"] == "completed"
    assert sandbox.rows("SELECT count(*) FROM dag_runs") == [(2,)]


def test_a_scope_at_its_share_is_told_to_wait_and_others_have_room(sandbox: Sandbox, tmp_path: Path) -> None:
    settings(sandbox, '[queue]\nmax_queued = 8\n[worker]\nmax_workers = 1\n[scope."project:small"]\nmax_queued = 1\n')

    def waiting(scope: str) -> dict[str, Any]:
        return {"dag_id": "w", "scope": scope, "tasks": [{"id": "t", "command": "true"}]}

    with sandbox.node() as node:
        busy = node.execute({"dag_id": "busy", "tasks": [{"id": "t", "command": "sleep 100"}]}).body["run_id"]
        wait_for(lambda: node.run(busy)["status"] == "running", what="the one worker to be taken")
        floods = [node.execute(waiting("project:flood")) for _ in range(5)]
        small = [node.execute(waiting("project:small")).status for _ in range(2)]
        shell = sandbox.cis("dag", "run", write_dag(tmp_path, waiting("project:flood")))
        others = [node.execute(waiting(f"user:u{number}")) for number in range(4)]
        node.call("POST", f"/api/v1/runs/{busy}/cancel")

    assert [answer.status for answer in floods] == [202, 202, 202, 202, 429]
    headers = {name.lower(): value for name, value in floods[-1].headers.items()}
    assert int(headers["retry-after"]) > 0
    assert floods[-1].body["code"] == "overloaded.share"
    assert "scope project:flood has 4 runs waiting already" in floods[-1].body["detail"]
    assert small == [202, 429]
    assert shell.returncode == 5
    assert "its share of the queue" in shell.stderr
    assert [answer.status for answer in others] == [202, 202, 202, 503]


def test_a_scope_has_as_many_runs_at_once_as_its_table_says_whoever_ends_them(sandbox: Sandbox) -> None:
    settings(sandbox, '[scope."project:*"]\nmax_runs = 1\n')
    document = {"dag_id": "d", "scope": "project:p", "tasks": [{"id": "t", "command": "sleep 0.2"}]}
    with sandbox.node() as node:
        first = node.execute({**document, "tasks": [{"id": "t", "command": "sleep 60"}]}).body["run_id"]
        wait_for(lambda: node.run(first)["status"] == "running", what="the first to start")
        others = [node.execute(document).body["run_id"] for _ in range(3)]
        elsewhere = node.finished(node.execute({**document, "scope": "user:u"}).body["run_id"])
        waiting = node.run(others[0])
        node.call("POST", f"/api/v1/runs/{first}/cancel")
        ends = [node.finished(run_id)["status"] for run_id in others]

    times = sandbox.rows(
        "SELECT started_at_us, finished_at_us FROM dag_runs WHERE scope_id = 'p' ORDER BY started_at_us"
    )
    assert elsewhere["status"] == "completed"
    assert waiting["status"] == "pending"
    assert "max_runs" in waiting["waiting"]["message"]
    assert ends == ["completed"] * 3
    assert all(start >= end for (_, end), (start, _) in pairwise(times))
