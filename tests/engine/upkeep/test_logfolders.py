"""Only a run's own files are removed, never through a link, and never anything else that lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.engine.upkeep import pruner
from cis.engine.upkeep.pruner import log_folders, outputs_left, remove_logs, remove_outputs


def folder(root: Path, name: str, *files: str) -> Path:
    """Make a folder with files."""
    made = root / name
    made.mkdir(parents=True)
    for file in files:
        (made / file).write_text("x")
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder of logs."""
    made = tmp_path / "logs"
    made.mkdir()
    return made


def test_a_runs_files_go_and_its_folder_with_them(root: Path) -> None:
    folder(root, "r1", "0.1.out", "0.1.err", "12.3.outputs")
    folder(root, "r2", "0.1.out")

    assert remove_logs(root, "r1")
    assert [path.name for path in root.iterdir()] == ["r2"]
    assert remove_logs(root, "r1")  # harmless when repeated


def test_many_files_go_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "FILES_AT_ONCE", 2)
    made = folder(root, "r1", *(f"{number}.1.out" for number in range(5)))

    assert not remove_logs(root, "r1")
    assert len(list(made.iterdir())) == 3
    assert not remove_logs(root, "r1")
    assert remove_logs(root, "r1")
    assert not made.exists()


def test_what_is_no_attempts_file_stays_and_so_does_its_folder(root: Path) -> None:
    made = folder(root, "r1", "0.1.out", "notes.txt")
    (made / "1.1.out").mkdir()

    assert remove_logs(root, "r1")
    assert (made / "notes.txt").exists()
    assert (made / "1.1.out").is_dir()


def test_a_folder_that_is_a_link_is_left_alone_and_a_file_that_is_one_goes_without_its_target(root: Path) -> None:
    outside = folder(root.parent, "outside", "0.1.out")
    (root / "r1").symlink_to(outside)
    (folder(root, "r2") / "0.1.out").symlink_to(outside / "0.1.out")

    assert remove_logs(root, "r1")
    assert remove_logs(root, "r2")
    assert (root / "r1").is_symlink()
    assert not (root / "r2").exists()
    assert (outside / "0.1.out").exists()


@pytest.mark.parametrize("name", ["workers", "..", ".", "", "../outside", "a/b", "-x"])
def test_a_name_that_no_run_has_is_not_touched(root: Path, name: str) -> None:
    folder(root.parent, "outside", "0.1.out")
    folder(root, "workers", "0.1.out")

    assert remove_logs(root, name)
    assert (root.parent / "outside" / "0.1.out").exists()
    assert (root / "workers" / "0.1.out").exists()


def test_when_all_logs_are_behind_a_link_nothing_goes(root: Path) -> None:
    folder(root, "r1", "0.1.out")
    (root.parent / "link").symlink_to(root)

    assert remove_logs(root.parent / "link", "r1")
    assert (root / "r1" / "0.1.out").exists()


def test_folders_of_runs_are_listed_and_nothing_else(root: Path) -> None:
    folder(root, "r1")
    folder(root, "workers")
    folder(root, ".live")
    (root / "file").write_text("x")
    (root / "link").symlink_to(root / "r1")

    assert [name for name, _ in log_folders(root)] == ["r1"]
    assert list(log_folders(root / "missing")) == []


def test_outputs_are_found_and_go_and_what_else_lies_there_stays(root: Path) -> None:
    live = folder(root, ".live", "r.1.0.1.outputs", "r2.5.2.outputs", "a..b.5.1.outputs", "notes.txt", "r3.out")
    (live / "r3.0.1.outputs").mkdir()
    os.utime(live / "r.1.0.1.outputs", (5, 5))

    found = sorted(outputs_left(root))
    assert [(run_id, name) for run_id, name, _ in found] == [("r.1", "r.1.0.1.outputs"), ("r2", "r2.5.2.outputs")]
    assert found[0][2] == 5_000_000
    remove_outputs(root, ["gone.0.1.outputs", "r3.0.1.outputs", *(name for _, name, _ in found)])
    assert sorted(path.name for path in live.iterdir()) == ["a..b.5.1.outputs", "notes.txt", "r3.0.1.outputs", "r3.out"]


def test_outputs_behind_a_link_are_left_alone(root: Path) -> None:
    outside = folder(root.parent, "outside", "r1.0.1.outputs")
    assert not list(outputs_left(root))  # there is no such folder
    (root / ".live").symlink_to(outside)

    assert not list(outputs_left(root))
    remove_outputs(root, ["r1.0.1.outputs"])
    assert (outside / "r1.0.1.outputs").exists()
