"""Many tasks from one: ``foreach`` and ``matrix`` through the real command and node, on both stores."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.cluster import befriend, make_nodes, running
from tests.worlds.cluster import ended as ended_there
from tests.worlds.harness import Sandbox, write_dag
from tests.worlds.waiting import wait_for


def latest(sandbox: Sandbox, dag_id: str) -> dict[str, Any]:
    """Return the latest run of a DAG, as ``status`` shows it."""
    run: dict[str, Any] = sandbox.json("dag", "status", dag_id)["runs"][0]
    return run


def states(run: dict[str, Any]) -> dict[str, str]:
    """Return the states of a run's tasks."""
    return {task["id"]: task["status"] for task in run["tasks"]}


def task_of(run: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Return one task of a run."""
    (found,) = (task for task in run["tasks"] if task["id"] == task_id)
    return dict(found)


FINDS = {"id": "find", "command": """echo 'files=["f1", "f2", "f3"]' >> $CIS_OUTPUT"""}


def test_a_task_is_made_into_one_for_each_item_that_another_has_found_and_what_follows_gets_all_in_order(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    document = {
        "dag_id": "converts",
        "params": {"sizes": {"type": "array", "default": [{"w": 1}, {"w": 2}]}},
        "tasks": [
            FINDS,
            {
                "id": "convert",
                "foreach": "${tasks.find.outputs.files}",
                "depends_on": "find",
                "command": 'echo "to=$1.png" >> $CIS_OUTPUT; echo "$FILE in $PWD"',
                "env": {"FILE": "${item}", "ALSO": "${tasks.find.outputs.files[0]}"},
            },
            {"id": "size", "foreach": "${params.sizes}", "command": ["echo", "${item.w}", "${item}"]},
            {
                "id": "build",
                "matrix": {"os": ["linux", "mac"], "v": ["3.11", "3.13"], "exclude": [{"os": "mac", "v": "3.11"}]},
                "command": 'echo "name=$OS-$V" >> $CIS_OUTPUT',
                "env": {"OS": "${matrix.os}", "V": "${matrix.v}"},
            },
            {"id": "none", "foreach": [], "command": "false"},
            {
                "id": "last",
                "depends_on": ["convert", "build", "none", "size"],
                "command": ["echo", "${tasks.build.outputs.name}", "${tasks.convert.instances[2].key}", "${tasks.none.instances}"],
            },
        ],
    }  # fmt: skip
    done = sandbox.cis("dag", "run", write_dag(tmp_path, document), "--wait")
    run = latest(sandbox, "converts")
    logs = {log["task_id"]: log["output"] for log in sandbox.json("dag", "logs", "converts")}
    shown = sandbox.cis("dag", "status", "converts").stdout

    assert done.returncode == 0, done.stderr
    assert list(states(run)) == [
        "find", "convert", "size", "build", "none", "last", "size[0]", "size[1]", "build[linux,3.11]",
        "build[linux,3.13]", "build[mac,3.13]", "convert[f1]", "convert[f2]", "convert[f3]",
    ]  # fmt: skip
    assert set(states(run).values()) == {"completed"}
    assert [task_of(run, name)["attempts"] for name in ("convert", "none", "convert[f2]")] == [0, 0, 1]
    assert task_of(run, "convert[f2]")["given"] == {"item": "f2"}
    assert task_of(run, "build[mac,3.13]")["given"] == {"matrix": {"os": "mac", "v": "3.13"}}
    assert [task_of(run, name)["instance_of"] for name in ("size[1]", "size")] == ["size", None]
    assert logs["last"] == '["linux-3.11","linux-3.13","mac-3.13"] f3 []\n'
    assert logs["size[1]"] == '2 {"w":2}\n'
    (line,) = (line.split() for line in shown.splitlines() if line.startswith("convert "))
    assert line[:3] + line[-1:] == ["convert", "completed", "0", "3/3"]
    assert "convert[f1]" not in shown


def test_one_that_fails_fails_the_whole_and_one_alone_or_all_that_failed_can_be_repeated(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mend = tmp_path / "mend"
    document = {
        "dag_id": "mends",
        "tasks": [
            {
                "id": "try",
                "foreach": ["a", "b", "c"],
                "command": f'test "$X" = a || test -e {mend}; echo x >> {tmp_path}/$X',
                "env": {"X": "${item}"},
            },
            {"id": "after", "command": "true", "depends_on": "try"},
        ],
    }
    assert sandbox.cis("dag", "run", write_dag(tmp_path, document), "--wait").returncode == 1
    first = latest(sandbox, "mends")
    shown = sandbox.cis("dag", "status", "mends").stdout
    mend.touch()
    one = sandbox.json("dag", "rerun", "mends", "--task", "try[b]", "--wait", expect=1)
    alone = latest(sandbox, "mends")
    rest = sandbox.json("dag", "rerun", "mends", "--from-failed", "--wait")
    whole = latest(sandbox, "mends")

    assert states(first) == {
        "try": "failed", "after": "skipped", "try[a]": "completed", "try[b]": "failed", "try[c]": "failed"
    }  # fmt: skip
    assert task_of(first, "try")["error"] == "2 of 3 instances failed"
    assert "3/3, 2 failed" in shown
    assert "try[b]" in shown
    assert "try[a]" in one["kept"]
    assert states(alone) == {
        "try": "failed", "after": "skipped", "try[a]": "completed", "try[c]": "failed", "try[b]": "completed"
    }  # fmt: skip
    assert set(rest["kept"]) == {"try[a]", "try[b]"}
    assert set(states(whole).values()) == {"completed"}
    assert {name: (tmp_path / name).read_text() for name in "abc"} == {"a": "x\n", "b": "x\n", "c": "x\n"}


def test_fail_fast_ends_the_others_max_parallel_bounds_them_and_what_may_fail_or_is_skipped_counts_as_such(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    one_at_once = f"mkdir {tmp_path}/held; sleep 0.05; echo x >> {count}; rmdir {tmp_path}/held"
    fast = {"foreach": ["a", "b", "c", "d"], "fail_fast": True, "env": {"X": "${item}"}}
    document = {
        "dag_id": "bounds",
        "tasks": [
            {"id": "fast", **fast, "command": "test $X != a || exit 3; sleep 600"},
            {"id": "one", "foreach": [1, 2, 3, 4], "max_parallel": 1, "command": one_at_once},
            {"id": "may", "foreach": ["x", "y"], "command": ["test", "${item}", "=", "x"], "allow_failure": True},
            {"id": "skip", "foreach": ["x", "y"], "command": "exit 9", "skip_codes": [9]},
            {"id": "after", "command": "true", "depends_on": ["one", "may"]},
            {"id": "skipped", "command": "true", "depends_on": ["skip"]},
            {"id": "kids", "foreach": [1, 2], "skill": "dag", "params": {"document": {"dag_id": "kid", "tasks": [{"id": "k", "command": "true"}]}}},
        ],
    }  # fmt: skip
    assert sandbox.cis("dag", "run", write_dag(tmp_path, document), "--wait").returncode == 1
    run = latest(sandbox, "bounds")
    found = states(run)

    assert found["fast[a]"] == "failed"
    assert {found[f"fast[{name}]"] for name in "bcd"} == {"cancelled"}
    assert task_of(run, "fast")["error"] == "1 of 4 instances failed, and 3 were cancelled"
    assert count.read_text() == "x\n" * 4
    assert [found[name] for name in ("one", "may", "may[y]", "after", "kids")] == [
        "completed", "completed", "failed", "completed", "completed"
    ]  # fmt: skip
    assert [(task_of(run, name)["status"], task_of(run, name)["skip_reason"]) for name in ("skip", "skipped")] == [
        ("skipped", "code"), ("skipped", "upstream_skipped")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("v=abc", "must be a list, not text"),
        ("v=", "must be a list, not text"),
        ('{"v": {"a": 1}}', "must be a list, not an object"),
        ('{"v": null}', "must be a list, not null"),
        ('{"w": 1}', "has no output 'v'"),
        ("python3 -c 'print(list(range(10001)))' | sed 's/^/v=/'", "makes 10,001 instances; 10,000 at most"),
    ],
)
def test_what_is_no_list_or_too_long_a_one_fails_the_task_and_says_so(
    sandbox: Sandbox, tmp_path: Path, value: str, said: str
) -> None:
    write = value if value.startswith("python3") else f"echo '{value}'"
    says = {"id": "say", "command": f"{write} >> $CIS_OUTPUT"}
    many = {"id": "many", "foreach": "${tasks.say.outputs.v}", "command": "true", "depends_on": "say"}
    after = {"id": "after", "command": "true", "depends_on": "many"}
    path = write_dag(tmp_path, {"dag_id": "no-list", "tasks": [says, many, after]})

    assert sandbox.cis("dag", "run", path, "--wait").returncode == 1
    run = latest(sandbox, "no-list")
    assert states(run) == {"say": "completed", "many": "failed", "after": "skipped"}
    assert said in task_of(run, "many")["error"]


def test_a_worker_that_dies_loses_none_and_makes_none_twice(sandbox: Sandbox, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f'echo "$X" >> {tmp_path}/began; until test -e {gate}; do sleep 0.02; done; echo "$X" >> {tmp_path}/ended'
    document = {
        "dag_id": "dies",
        "tasks": [
            FINDS,
            {
                "id": "each",
                "foreach": "${tasks.find.outputs.files}",
                "max_parallel": 2,
                "depends_on": "find",
                "command": wait,
                "env": {"X": "${item}"},
            },
            {"id": "last", "command": ["echo", "${tasks.each.instances}"], "depends_on": "each"},
        ],
    }
    with sandbox.node():
        assert sandbox.cis("dag", "run", write_dag(tmp_path, document)).returncode == 0
        began = tmp_path / "began"
        wait_for(lambda: began.exists() and len(began.read_text().split()) == 2, what="two instances", timeout_s=30)
        (worker,) = sandbox.json("dag", "worker", "list")
        os.kill(worker["pid"], signal.SIGKILL)
        # The next worker tries those that ran beside each other one after the other: one of them may be to blame.
        wait_for(lambda: len(began.read_text().split()) == 3, what="a second attempt", timeout_s=60)
        gate.touch()
        wait_for(lambda: latest(sandbox, "dies")["finished_at"] is not None, what="the end", timeout_s=60)
    run = latest(sandbox, "dies")

    assert run["status"] == "completed"
    assert [task["id"] for task in run["tasks"]] == ["find", "each", "last", "each[f1]", "each[f2]", "each[f3]"]
    assert sorted((tmp_path / "ended").read_text().split()) == ["f1", "f2", "f3"]


def test_they_are_told_to_the_origin_of_a_run_that_another_node_executes(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    document = {
        "dag_id": "far",
        "target_node": "node-2",
        "tasks": [
            FINDS,
            {"id": "each", "foreach": "${tasks.find.outputs.files}", "command": ["echo", "${item}"], "depends_on": "find"},
        ],
    }  # fmt: skip
    with running(one, two):
        run = ended_there(one, one.api.execute(document).body["run_id"])
        logs = {log["task_id"]: log["output"] for log in one.sandbox.json("dag", "logs", "far")}

    assert states(run) == dict.fromkeys(("find", "each", "each[f1]", "each[f2]", "each[f3]"), "completed")
    assert logs["each[f2]"] == "f2\n"
    assert task_of(run, "each[f3]")["given"] == {"item": "f3"}


def test_a_task_or_an_instance_can_be_cancelled_alone_and_counts_as_failed(sandbox: Sandbox, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waits = f"until test -e {gate}; do sleep 0.02; done"
    document = {
        "dag_id": "alone",
        "tasks": [
            {"id": "each", "foreach": ["a", "b", "c"], "command": waits},
            {"id": "one", "foreach": ["a", "b", "c"], "max_parallel": 1, "command": waits},
            {"id": "whole", "foreach": ["a", "b"], "command": ["sleep", "600"]},
            {"id": "long", "command": ["sleep", "600"]},
            {"id": "retries", "command": "false", "max_retries": 3, "retry_delay": "1h"},
            {"id": "after", "command": "true", "depends_on": "long"},
            {"id": "later", "command": "true", "depends_on": "each"},
            {"id": "unbegun", "command": "true", "depends_on": "each"},
        ],
    }
    with sandbox.node(CIS_SLOTS="8"):
        assert sandbox.cis("dag", "run", write_dag(tmp_path, document)).returncode == 0
        began = ("each[a]", "each[b]", "each[c]", "whole[a]", "whole[b]", "long")
        wait_for(
            lambda: all(states(latest(sandbox, "alone")).get(one) == "running" for one in began),
            what="all",
            timeout_s=30,
        )
        wait_for(lambda: task_of(latest(sandbox, "alone"), "retries")["attempts"] == 1, what="a try", timeout_s=30)
        for task_id in ("each[b]", "one[b]", "whole", "long", "retries", "unbegun"):
            assert sandbox.cis("dag", "cancel", "alone", "--task", task_id).returncode == 0
        gone = ("each[b]", "one[b]", "whole[a]", "whole[b]", "long", "retries", "unbegun")
        wait_for(
            lambda: all(states(latest(sandbox, "alone"))[one] == "cancelled" for one in gone),
            what="their ends",
            timeout_s=30,
        )
        again = sandbox.cis("dag", "cancel", "alone", "--task", "long")
        none = sandbox.cis("dag", "cancel", "alone", "--task", "nowhere")
        gate.touch()
        wait_for(lambda: latest(sandbox, "alone")["finished_at"] is not None, what="the end", timeout_s=30)
    run = latest(sandbox, "alone")

    assert (again.returncode, none.returncode) == (4, 3)
    assert "nothing to cancel" in again.stderr
    assert run["status"] == "failed"
    assert states(run) == {
        "each": "failed", "whole": "failed", "long": "cancelled", "retries": "cancelled", "after": "skipped",
        "later": "skipped", "unbegun": "cancelled", "each[a]": "completed", "each[b]": "cancelled",
        "each[c]": "completed", "whole[a]": "cancelled", "whole[b]": "cancelled", "one": "failed",
        "one[a]": "completed", "one[b]": "cancelled", "one[c]": "completed",
    }  # fmt: skip
    assert task_of(run, "after")["skipped_because"] == "long"


def test_one_alone_is_cancelled_on_the_node_that_executes_it(tmp_path: Path) -> None:
    one, two = make_nodes(tmp_path, 2)
    befriend(one, two)
    gate = tmp_path / "gate"
    waits = {"id": "each", "foreach": ["a", "b"], "command": f"until test -e {gate}; do sleep 0.02; done"}
    document = {"dag_id": "far", "target_node": "node-2", "tasks": [waits]}
    with running(one, two):
        run_id = one.api.execute(document).body["run_id"]
        wait_for(lambda: states(one.api.run(run_id)).get("each[b]") == "running", what="the instances", timeout_s=30)
        asked = one.api.call("POST", f"/api/v1/runs/{run_id}/cancel", body={"task": "each[b]"})
        wait_for(lambda: states(one.api.run(run_id))["each[b]"] == "cancelled", what="its end", timeout_s=30)
        gate.touch()
        run = ended_there(one, run_id)

    assert asked.status == 200
    assert (run["status"], states(run)) == (
        "failed",
        {"each": "failed", "each[a]": "completed", "each[b]": "cancelled"},
    )
