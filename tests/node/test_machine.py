"""Which machine this is, from what systems and containers leave in their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis.errors import HomeElsewhereError
from cis.executors.platform import machine_id
from cis.node.residence import check_place
from cis.store.upkeep_port import HomeRecord

ID = "0123456789abcdef0123456789abcdef"


def system(root: Path, **files: str) -> Path:
    """Make the files of a system below *root*; ``__`` stands for a slash, ``0`` for a dot."""
    for name, text in {"etc__machine-id": f"{ID}\n", **files}.items():
        path = root / name.replace("__", "/").replace("0", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_is_known_by_its_id_which_is_not_told(tmp_path: Path) -> None:
    first = machine_id(root=system(tmp_path / "a"), environ={})
    again = machine_id(root=system(tmp_path / "b"), environ={})
    other = machine_id(root=system(tmp_path / "c", **{"etc__machine-id": ID[::-1]}), environ={})

    assert first
    assert first == again != other
    assert ID not in first


@pytest.mark.parametrize(
    "files",
    [
        {"0dockerenv": ""},
        {"run__0containerenv": ""},
        {"run__systemd__container": "lxc"},
        {"proc__1__cgroup": "12:pids:/kubepods/burstable/pod1/x\n"},
        {"proc__self__mountinfo": "500 400 0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/x\n"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_a_container_has_no_machine_of_its_own(tmp_path: Path, files: dict[str, str]) -> None:
    assert machine_id(root=system(tmp_path, **files), environ={}) == ""


@pytest.mark.parametrize("name", ["container", "KUBERNETES_SERVICE_HOST"])
def test_a_container_is_told_by_its_environment(tmp_path: Path, name: str) -> None:
    assert machine_id(root=system(tmp_path), environ={name: "x"}) == ""


def test_a_machine_with_an_ordinary_root_is_no_container(tmp_path: Path) -> None:
    files = {
        "proc__1__cgroup": "0::/init.scope\n",
        "proc__self__mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:9 / /var/lib/x rw - overlay overlay rw\n",
    }

    assert machine_id(root=system(tmp_path, **files), environ={}) != ""


def place(machine: str, path: str) -> HomeRecord:
    return HomeRecord(node_id="n", machine=machine, path=path)


def test_a_home_is_at_home_on_its_machine_and_path_and_in_a_container_at_its_path() -> None:
    check_place(place("m1", "/h"), place("m1", "/h"))
    check_place(place("", "/h"), place("", "/h"))
    check_place(place("m1", "/h"), place("", "/h"))
    for here in (place("m2", "/h"), place("m1", "/other"), place("", "/other")):
        with pytest.raises(HomeElsewhereError, match=r"--moved.*--copied"):
            check_place(place("m1", "/h"), here)
