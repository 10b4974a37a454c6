"""Everything under examples/, and every document that a page shows, does what is said of it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cis.model.document import parse_dag
from tests.worlds.harness import Sandbox
from tests.worlds.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES.rglob("README.md"))]
SHOWN = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
    if "dag_id:" in text
]
SVG = "{http://www.w3.org/2000/svg}"


def states(sandbox: Sandbox, dag_id: str) -> dict[str, tuple[str, int]]:
    """Return how each task of the latest run ended, and after how many attempts."""
    latest = sandbox.json("dag", "status", dag_id)["runs"][0]
    return {task["id"]: (task["status"], task["attempts"]) for task in latest["tasks"]}


def output(sandbox: Sandbox, dag_id: str, task: str) -> str:
    """Return what a task of the latest run wrote."""
    return str(sandbox.json("dag", "logs", dag_id, "--task", task)[-1]["output"])


def output_of_run(sandbox: Sandbox, run_id: str, task: str) -> str:
    """Return what a task of one run wrote."""
    return str(sandbox.json("dag", "logs", run_id, "--task", task)[-1]["output"])


def gone(pid: int) -> bool:
    """Whether no process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("text", SHOWN)
def test_a_document_that_a_page_shows_is_a_good_one(text: str) -> None:
    assert parse_dag(text.encode()).tasks


def test_the_small_examples_do_what_they_say(sandbox: Sandbox, tmp_path: Path) -> None:
    with sandbox.node() as node:
        check = tmp_path / "http-check.yaml"
        written = (EXAMPLES / check.name).read_text(encoding="utf-8")
        check.write_text(written.replace("http://127.0.0.1:6767", node.url), encoding="utf-8")
        expected = {check: 0, EXAMPLES / "retries.yaml": 1}
        expected |= {
            EXAMPLES / f"{name}.yaml": 0 for name in ("hello", "outputs", "parameters", "conditions", "nested-dag")
        }
        ended = {path: sandbox.cis("dag", "run", str(path), "--wait").returncode for path in expected}

    assert check.read_text(encoding="utf-8") != written
    assert ended == expected
    assert output(sandbox, "hello", "list-form") == "a list is run without a shell: $HOME stays as it is\n"
    assert output(sandbox, "parameters", "ship") == "1.0 goes to localhost first\n"
    assert re.fullmatch(r"the label is \S+-\d{4}-\d\d-\d\d\n", output(sandbox, "outputs", "show"))
    assert re.fullmatch(r"status 200 after [\d.]+ s\n", output(sandbox, "http-check", "tell"))
    assert set(states(sandbox, "nested-dag-inner")) == {"one", "two"}
    assert states(sandbox, "conditions") == {
        "test": ("completed", 1),
        "deploy": ("skipped", 0),
        "announce": ("skipped", 0),
        "undo": ("skipped", 0),
        "report": ("completed", 1),
    }
    assert states(sandbox, "retries") == {
        "flaky": ("completed", 3),
        "after-flaky": ("completed", 1),
        "slow": ("failed", 2),
        "never": ("skipped", 0),
    }


def test_every_example_is_run_by_a_test() -> None:
    assert {path.stem for path in (EXAMPLES / "real").glob("*.yaml")} == {
        *("recipes", "runner", "modules", "backup", "server", "branching", "warehouse")
    }
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {
        *("conditions", "hello", "http-check", "nested-dag", "outputs", "parameters", "retries", "stdlib-census")
    }


def test_the_demonstration_counts_the_standard_library_shows_the_result_and_stops(tmp_path: Path) -> None:
    home, results = tmp_path / "home", tmp_path / "results"
    demo = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        env={**os.environ, "CIS_HOME": str(home), "CENSUS_OUT": str(results), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    (table,) = results.glob("*/census.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["package"]: int(row["lines"]) for row in csv.DictReader(file)}
    picture = ET.parse(table.with_suffix(".svg")).getroot()  # noqa: S314 - it is ours
    drawn = [title.text for title in picture.iter(f"{SVG}title")]
    assert {"asyncio", "email", "json", "modules", "unittest"} <= set(rows)
    assert list(rows.values()) == sorted(rows.values(), reverse=True)
    assert drawn == [f"{package}: {lines:,} lines" for package, lines in rows.items()]
    assert f"{len(rows)} packages, {sum(rows.values())} lines" in demo.stdout
    for shown in (str(table), str(table.with_suffix(".svg")), "stdlib-census completed", "worker-project-examples"):
        assert shown in demo.stdout + demo.stderr
    assert not (home / "run" / "node.json").exists()


def test_a_demonstration_that_is_ended_early_leaves_nothing_running(sandbox: Sandbox, tmp_path: Path) -> None:
    env = {**os.environ, **sandbox.env, "CENSUS_OUT": str(tmp_path / "results")}
    demo = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "demo.py")], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        wait_for(lambda: list(tmp_path.glob("results/*")), timeout_s=60, what="the census to begin")
        node = json.loads((sandbox.home / "run" / "node.json").read_text())["pid"]
        (worker,) = (pid for (pid,) in sandbox.rows("SELECT pid FROM workers"))
        demo.send_signal(signal.SIGTERM)
        status = demo.wait(60)
    finally:
        demo.kill()
        demo.wait()

    assert status == 128 + signal.SIGTERM
    assert gone(node)
    wait_for(lambda: gone(worker), what="the worker to end")


def test_the_recipes_of_an_application_are_run_one_by_one_with_what_they_need(sandbox: Sandbox, tmp_path: Path) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    recipes = str(real / "recipes.yaml")
    sandbox.json("dag", "run", recipes, "--only", "test", "-p", "options=-k login; touch pwned")
    tested = (states(sandbox, "recipes"), output(sandbox, "recipes", "test"))
    sandbox.json("dag", "run", recipes, "--only", "serve", "-p", "port=8002")

    assert tested == ({"install": ("completed", 1), "test": ("completed", 1)}, "tool test -k login; touch pwned\n")
    assert not (real / "pwned").exists()
    assert output(sandbox, "recipes", "serve") == "tool serve --port 8002\n"


def test_a_task_runners_own_tasks_put_a_commit_into_what_they_link_and_call_one_another(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    sandbox.json("dag", "run", str(real / "runner.yaml"), "-p", "commit=4f2a9c1")
    package = output(sandbox, "runner", "package")
    linked = {
        run["params"]["system"]: output_of_run(sandbox, run["run_id"], "link")
        for run in sandbox.json("dag", "status", "runner-build")["runs"]
    }

    assert package == "tool package out/runner-linux out/runner-darwin\n"
    assert linked == {
        system: f"tool link -X version.commit=4f2a9c1 -o out/runner-{system}\n" for system in ("linux", "darwin")
    }
    assert {"generated", "runner-linux", "runner-darwin"} <= {file.name for file in (real / "out").iterdir()}


def ended(sandbox: Sandbox, dag_id: str) -> dict[str, str]:
    """Return how each task of the latest run ended."""
    return {name: status for name, (status, _) in states(sandbox, dag_id).items()}


def test_a_librarys_modules_are_found_and_tested_and_code_is_generated_for_each_database(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    sandbox.json("dag", "run", str(real / "modules.yaml"))

    assert set(ended(sandbox, "modules").values()) == {"completed"}
    assert {"generate[mysql]", "migrations[sqlite]", "test[0]", "test[2]"} <= ended(sandbox, "modules").keys()
    assert output(sandbox, "modules", "test[1]") == "tool test -race driver/postgres\n"
    assert (real / "out" / "postgres" / "queries.go").exists()


def test_a_backup_saves_each_database_that_there_is_and_tells_when_one_is_not(sandbox: Sandbox, tmp_path: Path) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    sandbox.json("dag", "run", str(real / "backup.yaml"))
    fine = ended(sandbox, "backup")
    sandbox.json("dag", "run", str(real / "backup.yaml"), "-p", "databases=shop --fail", expect=1)

    assert set(fine) == {"list", "save", "prune", "save[shop]", "save[wiki]"}
    assert (real / "out" / "second" / "wiki.gz.enc").exists()
    assert ended(sandbox, "backup") == {
        "list": "completed", "save": "failed", "prune": "skipped", "save[shop]": "completed", "save[--fail]": "failed",
        "handlers.failure": "completed",
    }  # fmt: skip
    assert "backup: save (task save: 1 of 2 instances failed)" in output(sandbox, "backup", "handlers.failure")


def test_a_server_is_checked_for_two_architectures_and_deployed_from_the_main_branch_alone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    sandbox.json("dag", "run", str(real / "server.yaml"))
    topic = ended(sandbox, "server")
    sandbox.json("dag", "run", str(real / "server.yaml"), "-p", "branch=main")

    assert topic == {
        "check": "completed",
        "deploy": "skipped",
        "check[amd64]": "completed",
        "check[arm64]": "completed",
    }
    assert ended(sandbox, "server")["deploy"] == "completed"
    assert ended(sandbox, "server-checks")["handlers.exit"] == "completed"
    assert {path.name for path in (real / "out" / "amd64").iterdir()} == {"server"}


def test_branches_that_are_not_taken_are_skipped_and_a_join_runs_unless_one_failed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    found = []
    for take, expect in (("left", 0), ("left right", 0), ("left middle", 1), ("none", 0)):
        sandbox.json("dag", "run", str(real / "branching.yaml"), "-p", f"take={take}", expect=expect)
        found.append([ended(sandbox, "branching")[name] for name in ("left", "right", "middle", "join")])

    assert found == [
        ["completed", "skipped", "skipped", "completed"],
        ["completed", "completed", "skipped", "completed"],
        ["completed", "skipped", "failed", "skipped"],
        ["skipped", "skipped", "skipped", "skipped"],
    ]


def test_a_warehouse_goes_on_without_a_source_and_says_so_and_only_what_failed_is_repeated(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    real = shutil.copytree(EXAMPLES / "real", tmp_path / "real")
    sandbox.json("dag", "run", str(real / "warehouse.yaml"), "-p", "late=ads", "-p", "broken=true", expect=1)
    first = ended(sandbox, "warehouse")
    told = output(sandbox, "warehouse", "tell")
    again = sandbox.json("dag", "rerun", "warehouse", "--from-failed", "-p", "broken=false", "--wait")

    assert [first[name] for name in ("source", "source[ads]", "tell", "stock", "sales")] == [
        "completed", "failed", "completed", "completed", "failed"
    ]  # fmt: skip
    assert told == "tool mail without: ads\n"
    assert list(again["again"]) == ["sales"]
    assert ended(sandbox, "warehouse")["sales"] == "completed"
