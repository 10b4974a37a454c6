"""What ``cis dag run`` answers when it stays to the end: for cron, and for programs."""

from __future__ import annotations

from pathlib import Path

from tests.worlds.harness import Sandbox, write_dag

GOOD = {"dag_id": "good", "tasks": [{"id": "t", "command": "echo made; echo noise >&2; echo v=1 >> $CIS_OUTPUT"}]}
BAD = {
    "dag_id": "bad",
    "tasks": [
        {"id": "fine", "command": "echo made"},
        {"id": "broken", "command": "for n in $(seq 50); do echo line $n; done; echo at last >&2; exit 3"},
        {"id": "after", "command": "true", "depends_on": ["broken"]},
    ],
}


def test_a_quiet_run_says_nothing_when_it_completes_and_otherwise_the_last_lines_of_what_failed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    good = sandbox.cis("dag", "run", write_dag(tmp_path, GOOD), "--quiet")
    bad = sandbox.cis("dag", "run", write_dag(tmp_path, BAD), "--quiet")
    with sandbox.node():
        by_node = sandbox.cis("dag", "run", write_dag(tmp_path, GOOD), "--quiet")
        bad_by_node = sandbox.cis("dag", "run", write_dag(tmp_path, BAD), "--quiet")

    for done in (good, by_node):
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for done in (bad, bad_by_node):
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (1, "")
        assert lines[0].startswith("bad failed")
        assert "==> broken: exit status 3 <==" in lines
        assert {"line 31", "line 50", "at last"} <= set(lines)
        assert not {"line 30", "made"} & set(lines)
        assert lines[-1].startswith("look: cis dag logs bad --run ")


def test_a_quiet_run_with_json_prints_it_when_it_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    good = sandbox.cis("dag", "run", write_dag(tmp_path, GOOD), "--quiet", "--json")
    bad = sandbox.json("dag", "run", write_dag(tmp_path, BAD), "--quiet", expect=1)

    assert (good.returncode, good.stdout) == (0, "")
    assert bad["status"] == "failed"


def test_a_run_that_was_waited_for_answers_with_its_tasks_and_its_error(sandbox: Sandbox, tmp_path: Path) -> None:
    good = sandbox.json("dag", "run", write_dag(tmp_path, GOOD))
    with sandbox.node():
        handed_in = sandbox.json("dag", "run", write_dag(tmp_path, GOOD))
        bad = sandbox.json("dag", "run", write_dag(tmp_path, BAD), "--wait", expect=1)
        again = sandbox.json("dag", "rerun", "bad", "--from-failed", "--wait", expect=1)

    assert (good["status"], good["error"]) == ("completed", None)
    assert [(task["id"], task["status"], task["outputs"]) for task in good["tasks"]] == [("t", "completed", {"v": "1"})]
    assert "tasks" not in handed_in
    for answer in (bad, again):
        assert answer["status"] == "failed"
        assert answer["error"] == "task broken: exit status 3"
        assert [(task["id"], task["status"], task["exit_code"]) for task in answer["tasks"]] == [
            ("fine", "completed", 0),
            ("broken", "failed", 3),
            ("after", "skipped", None),
        ]
