"""The secrets of a node: where their values come from, and what is refused, in words without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.errors import ConfigError, LaunchError
from cis.model.scope import GLOBAL, parse_scope
from cis.node.home import Home
from cis.node.settings import load_settings
from cis.node.tables import TomlSecrets

TABLE = """
[secrets]
INLINE = "value-in-the-file"
FROM_ENV = {env = "THE_VARIABLE"}
FROM_FILE = {file = "secret.txt"}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with one secret of each kind."""
    home = Home(tmp_path)
    home.toml.write_text(TABLE)
    write(tmp_path / "secret.txt", "value-of-a-file\n")
    return home


def write(path: Path, text: str, *, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def book(home: Home) -> TomlSecrets:
    return TomlSecrets(home.toml, {"THE_VARIABLE": "value-of-a-variable", "OTHER": "not-to-be-had"})


def refusal(home: Home, name: str) -> str:
    """Return why a secret is not revealed."""
    with pytest.raises(LaunchError) as refused:
        book(home).reveal([name], scope=GLOBAL)
    return str(refused.value)


def test_each_kind_gives_its_value_and_a_file_loses_one_line_end(home: Home) -> None:
    assert book(home).reveal(["INLINE", "FROM_ENV", "FROM_FILE"], scope=GLOBAL) == {
        "INLINE": "value-in-the-file",
        "FROM_ENV": "value-of-a-variable",
        "FROM_FILE": "value-of-a-file",
    }


def test_a_value_that_changes_holds_for_the_next_attempt(home: Home, tmp_path: Path) -> None:
    secrets = book(home)
    secrets.reveal(["INLINE", "FROM_FILE"], scope=GLOBAL)
    home.toml.write_text(TABLE.replace("value-in-the-file", "another-in-the-file"))
    write(tmp_path / "secret.txt", "another-of-a-file")

    assert secrets.reveal(["INLINE", "FROM_FILE"], scope=GLOBAL) == {
        "INLINE": "another-in-the-file",
        "FROM_FILE": "another-of-a-file",
    }


def test_what_is_not_in_the_table_is_no_secret_though_there_is_a_variable(home: Home) -> None:
    assert "add it to [secrets]" in refusal(home, "OTHER")


def test_a_home_without_settings_has_no_secrets(tmp_path: Path) -> None:
    assert "add it to [secrets]" in refusal(Home(tmp_path), "ANY")


def test_a_missing_variable_and_a_missing_file_are_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").unlink()

    assert "No such file" in refusal(home, "FROM_FILE")
    with pytest.raises(LaunchError, match="THE_VARIABLE"):
        TomlSecrets(home.toml, {}).reveal(["FROM_ENV"], scope=GLOBAL)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused_with_the_mend(home: Home, tmp_path: Path, mode: int) -> None:
    (tmp_path / "secret.txt").chmod(mode)

    assert f"chmod 600 {tmp_path / 'secret.txt'}" in refusal(home, "FROM_FILE")


def test_a_symbolic_link_a_fifo_and_a_folder_are_refused_at_once(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "secret.txt"
    place.rename(tmp_path / "real.txt")

    place.symlink_to(tmp_path / "real.txt")
    assert "symbolic link" in refusal(home, "FROM_FILE")
    place.unlink()
    os.mkfifo(place, 0o600)
    assert "not a regular file" in refusal(home, "FROM_FILE")
    place.unlink()
    place.mkdir()
    assert "not a regular file" in refusal(home, "FROM_FILE")


def test_a_file_that_is_no_text_too_long_or_too_short_is_refused(home: Home, tmp_path: Path) -> None:
    place = tmp_path / "secret.txt"
    place.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(home, "FROM_FILE")
    place.write_bytes(b"a" * (2**16 + 10))
    assert "longer than" in refusal(home, "FROM_FILE")
    place.write_bytes(b"ab\n")
    assert "too short" in refusal(home, "FROM_FILE")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("A = 3", "must be a string"),
        ('A = "abc"', "too short"),
        ('A = {env = "X", file = "y"}', "must be a string"),
        ('A = {path = "y"}', "must be a string"),
        ('A = {file = "y", scopes = []}', "not empty"),
        ('A = {file = "y", scopes = "project:a"}', "list of scopes"),
        ('A = {file = "y", scopes = ["projects:a"]}', "not a scope"),
        ('A = {scopes = ["project:a"]}', "must be a string"),
        ('A = {env = ""}', "must name"),
        ("A = {file = 3}", "must name"),
        ('"A-B" = "long-enough"', "not a name of a secret"),
    ],
)
def test_each_fault_of_the_table_is_told_by_its_place(tmp_path: Path, entry: str, message: str) -> None:
    home = Home(tmp_path)
    home.toml.write_text(f"[secrets]\n{entry}\n")

    with pytest.raises(ConfigError) as refused:
        load_settings(home, environ={})

    (fault,) = refused.value.faults
    assert fault.place.startswith("cis.toml: secrets.A")
    assert message in fault.message
    assert "long-enough" not in str(refused.value)


def test_secrets_that_are_no_table_are_a_fault(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.toml.write_text('secrets = "value-in-the-file"\n')

    with pytest.raises(ConfigError, match=r"must be a table") as refused:
        load_settings(home, environ={})
    assert "value-in-the-file" not in str(refused.value)
    assert "'cis config check'" in refusal(home, "A")


def test_no_value_is_in_the_settings_or_in_what_another_process_is_given(home: Home) -> None:
    settings = load_settings(home, environ={"THE_VARIABLE": "value-of-a-variable"})

    assert "value-" not in repr(settings) + repr(settings.to_environ())


def test_faults_of_values_are_found_without_a_start(home: Home, tmp_path: Path) -> None:
    assert list(book(home).faults()) == []
    (tmp_path / "secret.txt").chmod(0o644)

    (fault,) = book(home).faults()
    assert fault.place == "cis.toml: secrets.FROM_FILE"


@pytest.mark.parametrize(
    ("scope", "name", "word"),
    [
        ("project:a", "FOR_A", ""),
        ("project:a", "FOR_ALL", ""),
        ("project:b", "FOR_A", "project:a"),
        ("user:u", "FOR_A", "project:a"),
        ("user:u", "FOR_U", ""),
        ("user:u", "FOR_ALL", '[scope."user:u"]'),
        ("global", "FOR_U", "user:*"),
    ],
)
def test_both_the_secret_and_the_scope_have_to_allow_it(home: Home, scope: str, name: str, word: str) -> None:
    home.toml.write_text(
        """
        [secrets]
        FOR_ALL = {env = "THE_VARIABLE"}
        FOR_A = {env = "THE_VARIABLE", scopes = ["project:a"]}
        FOR_U = {env = "THE_VARIABLE", scopes = ["user:*"]}
        [scope."user:u"]
        secrets = ["FOR_A", "FOR_U"]
        """
    )
    asking = parse_scope(scope)

    refused = book(home).refused([name], scope=asking)
    if not word:
        assert not refused
        assert book(home).reveal([name], scope=asking) == {name: "value-of-a-variable"}
        return
    assert scope in refused[name]
    assert word in refused[name]
    with pytest.raises(LaunchError) as why:
        book(home).reveal([name], scope=asking)
    assert str(why.value) == refused[name]


def test_a_scope_that_loses_a_secret_has_it_no_more_at_the_next_attempt(home: Home) -> None:
    secrets = book(home)
    secrets.reveal(["INLINE"], scope=GLOBAL)
    home.toml.write_text(TABLE + '[scope."glob*"]\nsecrets = []\n')

    with pytest.raises(LaunchError, match="scope global may not have the secret INLINE"):
        secrets.reveal(["INLINE"], scope=GLOBAL)


def test_tables_that_cannot_be_read_allow_nothing(home: Home) -> None:
    home.toml.write_text(TABLE + '[scope."project:a"]\nsecrets = "INLINE"\n')

    with pytest.raises(LaunchError, match="cannot be read"):
        book(home).reveal(["INLINE"], scope=GLOBAL)
