"""The home is its user's alone: modes, folders that others can write, and links that somebody planted in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cis.errors import ConfigError
from cis.executors.logcap import CappedLog
from cis.model.scope import GLOBAL
from cis.node.home import Home
from cis.worker.bell import FifoBell, ring
from cis.worker.lock import acquire, holder_of
from tests.worlds.harness import Sandbox, write_dag

DAG = {"dag_id": "d", "tasks": [{"id": "a", "command": "echo out; echo err >&2; echo x=1 > $CIS_OUTPUT"}]}
OPEN_UMASK = "import os, runpy, sys; os.umask(0); sys.argv[0] = 'cis'; runpy.run_module('cis', run_name='__main__')"


def too_open(root: Path) -> list[str]:
    """Return what others may use in any way of a folder and all that is in it."""
    found = [root, *root.rglob("*")]
    assert len(found) > 12, found
    return [
        f"{path} {stat.filemode(path.lstat().st_mode)}"
        for path in found
        if stat.S_IMODE(path.lstat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    ]


def test_nothing_in_the_home_is_open_to_others_whatever_the_umask(sandbox: Sandbox) -> None:
    deep = Sandbox(sandbox.home / "made" / "deep", {**sandbox.env, "CIS_HOME": str(sandbox.home / "made" / "deep")})
    file = write_dag(sandbox.home.parent, DAG)

    def cis(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-c", OPEN_UMASK, *arguments], env=dict(deep.env), check=True, capture_output=True
        )

    cis("init")
    cis("dag", "run", file)
    cis("token", "rotate")
    cis("token", "create", "ci")
    cis("node", "rotate-key")
    cis("db", "backup", str(deep.home / "backup.db"))
    with deep.node() as node:
        node.finished(node.execute(DAG).body["run_id"])
        while_it_runs = too_open(deep.home)

    assert not while_it_runs
    assert not too_open(deep.home)
    assert stat.S_IMODE(deep.home.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777, 0o720])
@pytest.mark.parametrize("name", ["", "logs", "run", "work"])
def test_a_home_that_others_can_write_is_refused_with_the_mend(sandbox: Sandbox, name: str, mode: int) -> None:
    sandbox.json("init")
    folder = sandbox.home / name
    folder.chmod(mode)
    home = Home(sandbox.home)
    with pytest.raises(ConfigError, match=r"others may write there.*chmod go-rwx") as caught:
        home.ensure()

    assert [fault.place for fault in caught.value.faults] == [str(folder)]
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~0o77)
    home.ensure()


@pytest.mark.parametrize("name", ["logs", "run", "work"])
def test_a_link_in_place_of_a_folder_of_the_home_is_refused(sandbox: Sandbox, name: str) -> None:
    elsewhere = sandbox.home.parent / "elsewhere"
    elsewhere.mkdir()
    sandbox.home.mkdir(mode=0o700)
    (sandbox.home / name).symlink_to(elsewhere)
    done = sandbox.cis("dag", "list")

    assert done.returncode == 2
    assert "is a symbolic link" in done.stderr
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_place_of_a_lock_is_refused_and_what_it_points_to_stays(tmp_path: Path, *, dangling: bool) -> None:
    victim, lock = tmp_path / "victim", tmp_path / "node.lock"
    if not dangling:
        victim.write_text("precious")
    lock.symlink_to(victim)
    for attempt in (lambda: acquire(lock, what="node n"), lambda: holder_of(lock)):
        with pytest.raises(ConfigError, match="is a symbolic link"):
            attempt()

    assert not victim.exists() if dangling else victim.read_text() == "precious"


@pytest.mark.parametrize("victim", ["file", "fifo", "nothing"])
def test_a_link_in_place_of_a_bell_is_removed_by_who_listens_and_not_rung_by_others(
    tmp_path: Path, victim: str
) -> None:
    run, target = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    if victim == "file":
        target.write_text("precious")
    elif victim == "fifo":
        os.mkfifo(target)
    (run / "w.wake").symlink_to(target)
    other = os.open(target, os.O_RDWR | os.O_NONBLOCK) if victim == "fifo" else None
    assert not ring(run, "w")
    bell = FifoBell(run / "w.wake")
    assert ring(run, "w")

    assert bell.drain()
    bell.close()
    assert stat.S_ISFIFO((run / "w.wake").lstat().st_mode)
    if other is not None:
        with pytest.raises(BlockingIOError):
            os.read(other, 1)
        os.close(other)
    assert target.exists() == (victim != "nothing")
    assert victim != "file" or target.read_text() == "precious"


def test_a_file_in_place_of_a_bell_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "w.wake").write_text("precious")

    assert not ring(tmp_path, "w")
    assert (tmp_path / "w.wake").read_text() == "precious"


def test_links_in_place_of_files_that_a_node_replaces_are_replaced_themselves(sandbox: Sandbox) -> None:
    sandbox.json("init")
    victim = sandbox.home.parent / "victim"
    victim.write_text("precious")
    for name in ("run/node.json", "token"):
        (sandbox.home / name).unlink(missing_ok=True)
        (sandbox.home / name).symlink_to(victim)
    sandbox.json("token", "rotate")
    with sandbox.node() as node:
        assert node.call("GET", "/api/v1/runs").status == 200
        assert not (sandbox.home / "run" / "node.json").is_symlink()

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("planted", ["run/cis-worker-{}.lock", "logs/workers/{}.log"])
def test_a_link_in_place_of_a_file_of_one_worker_holds_up_no_other_scope(sandbox: Sandbox, planted: str) -> None:
    sandbox.json("init")
    victim = sandbox.home.parent / "victim"
    victim.write_text("precious")
    with sandbox.node() as node:
        link = sandbox.home / planted.format(GLOBAL.worker_id)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(victim)
        held_up = node.execute(DAG).body["run_id"]
        other = node.execute({**DAG, "dag_id": "other", "scope": {"type": "user", "id": "ada"}}).body["run_id"]
        assert node.finished(other)["status"] == "completed"
        assert node.run(held_up)["status"] == "pending"
        link.unlink()
        assert node.finished(held_up)["status"] == "completed"

    assert victim.read_text() == "precious"


def test_a_link_in_place_of_the_log_of_a_task_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "1.out").symlink_to(tmp_path / "victim")
    log = CappedLog(tmp_path / "1.out", cap=1 << 20, tail_bytes=100)
    log.append(b"said")
    log.close()

    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "1.out").is_symlink()
    assert (tmp_path / "1.out").read_text() == "said"
