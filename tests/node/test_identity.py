"""The node's key: its public part is known without the private one, and is never that of another key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.node.home import Home
from cis.node.identity import KeyFile, ensure_public_key


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home that has no key yet."""
    return Home(tmp_path)


def real(home: Home) -> str:
    """Return the public part of the key that signs."""
    return KeyFile(home.key_file).signer().public_key


def test_the_public_key_is_that_of_the_key_that_signs_also_when_that_was_changed_or_replaced(home: Home) -> None:
    seen = []
    seen.append((ensure_public_key(home), real(home)))
    seen.append((ensure_public_key(home), real(home)))
    KeyFile(home.key_file).rotate("node-1")
    seen.append((ensure_public_key(home), real(home)))
    before = home.key_file.stat()
    other = Home(home.root / "other")
    other.root.mkdir()
    ensure_public_key(other)
    kept = home.key_file.read_text().split("\n")
    home.key_file.write_text("\n".join([other.key_file.read_text().strip(), *kept[1:]]))  # as long, in the same file
    os.utime(home.key_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen.append((ensure_public_key(home), real(home)))
    home.key_file.unlink()
    seen.append((ensure_public_key(home), real(home)))

    assert [shown for shown, _ in seen] == [signs for _, signs in seen]
    assert len({shown for shown, _ in seen}) == 4


@pytest.mark.parametrize("content", [b"", b"\xff", b"word", b"1.2.3 key", b"one two three"])
def test_what_is_kept_of_the_public_key_is_made_anew_when_it_is_damaged(home: Home, content: bytes) -> None:
    public_key = ensure_public_key(home)
    kept = home.root / "node.pub"
    whole = kept.read_bytes()
    kept.write_bytes(content)

    assert ensure_public_key(home) == public_key
    assert kept.read_bytes() == whole
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_public_key_is_told_where_nothing_can_be_written(home: Home) -> None:
    public_key = real(home)
    (home.root / "node.pub").mkdir()

    assert ensure_public_key(home) == public_key
    assert sorted(path.name for path in home.root.iterdir()) == ["node.key", "node.pub"]
