"""A home is taken only where its user, or root, alone can change what is in it and what leads to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.errors import ConfigError
from cis.node.home import MAX_PATH_BYTES, Home

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to give a folder to another user takes root")


def refused(root: Path) -> str:
    """Return why a home is not taken."""
    with pytest.raises(ConfigError) as caught:
        Home(root).ensure()
    return str(caught.value)


@needs_root
def test_a_home_of_another_user_is_refused_to_root_too_with_the_mend(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "run").mkdir()
    for path in (home, home / "run"):
        os.chown(path, NOBODY, NOBODY)
    why = refused(home)
    assert [path.name for path in home.iterdir()] == ["run"]
    for path in (home, home / "run"):
        os.chown(path, 0, 0)
    Home(home).ensure()

    assert str(home) in why
    assert why.count("belongs to nobody, and you are root") == 1  # the mend is one, whatever is in it
    assert "sudo -u nobody" in why
    assert "chown" in why


def test_a_file_in_place_of_a_home_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "home").touch()

    assert "home: is there, but is not a folder; remove it" in refused(tmp_path / "home")


@needs_root
@pytest.mark.parametrize("name", ["token", "cis.toml", "node.key", "cis.db", "run", "logs", "work"])
def test_what_another_user_owns_in_a_home_is_refused(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / "home")
    home.ensure()
    path = home.root / name
    if not path.exists():
        path.touch(mode=0o600)
    os.chown(path, NOBODY, NOBODY)

    assert str(path) in refused(home.root)


@needs_root
def test_a_folder_of_another_user_on_the_way_to_the_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "theirs" / "home"
    Home(home).ensure()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)

    assert f"{tmp_path / 'theirs'}: belongs to nobody" in refused(home)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_folder_on_the_way_that_others_may_write_is_refused_before_anything_is_made(
    tmp_path: Path, mode: int
) -> None:
    open_to_others = tmp_path / "open"
    open_to_others.mkdir()
    open_to_others.chmod(mode)
    why = refused(open_to_others / "new" / "home")
    open_to_others.chmod(0o1777)  # as /tmp is: only owners replace what is theirs
    made = list(open_to_others.iterdir())
    Home(open_to_others / "new" / "home").ensure()

    assert f"chmod go-w {open_to_others}" in why
    assert made == []


@needs_root
def test_a_link_that_leads_to_the_home_is_as_good_as_who_owns_it_and_what_it_leads_through(tmp_path: Path) -> None:
    real, shared = tmp_path / "real", tmp_path / "shared"
    Home(real / "home").ensure()
    shared.mkdir()
    shared.chmod(0o1777)
    link, second = shared / "link", tmp_path / "second"
    link.symlink_to(real / "home")
    second.symlink_to(link)
    Home(second).ensure()
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    theirs = refused(second)
    os.chown(link, 0, 0, follow_symlinks=False)
    real.chmod(0o777)

    assert f"{link}: is a link that belongs to nobody" in theirs
    assert f"chmod go-w {real}" in refused(second)


def test_a_path_that_the_database_cannot_have_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    longest = tmp_path
    while len(os.fsencode(longest)) < MAX_PATH_BYTES - 1:
        longest /= "d" * min(100, MAX_PATH_BYTES - 1 - len(os.fsencode(longest)))
    not_text = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))

    Home(longest).ensure()
    assert f"{MAX_PATH_BYTES} is the most" in refused(longest.with_name("e" * 200) / ("f" * 200))
    assert r"caf\xe9: its name is not UTF-8" in refused(not_text)
    assert not not_text.exists()
