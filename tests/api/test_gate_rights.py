"""Which right a request takes, and how rights and hashes of tokens compare."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from cis.api.gate import needed_right
from cis.api.served import OWNER, OwnToken, Rights
from cis.app.tokens import ADMIN, CONTROL, EXECUTE, READ


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/api/v1/runs", READ),
        ("HEAD", "/anything", READ),
        ("POST", "/api/v1/dag/execute", EXECUTE),
        ("POST", "/api/v1/runs/x/rerun", EXECUTE),
        ("POST", "/api/v1/runs/x/cancel", CONTROL),
        ("POST", "/api/v1/runs/x/pause", CONTROL),
        ("POST", "/api/v1/runs/x/resume", CONTROL),
        ("POST", "/api/v1/runs/x/anything-else", ADMIN),
        ("DELETE", "/api/v1/runs/x", ADMIN),
        ("PUT", "/api/v1/dags/x", EXECUTE),
        ("DELETE", "/api/v1/dags/x", EXECUTE),
        ("PATCH", "/api/v1/dags/x", ADMIN),
        ("PUT", "/api/v1/dags", ADMIN),
        ("BREW", "/", ADMIN),
    ],
)
def test_what_is_not_known_takes_the_highest_right(method: str, path: str, right: str) -> None:
    assert needed_right(method, path) == right


def test_admin_is_all_rights_and_the_others_are_themselves() -> None:
    assert all(OWNER.allows(right) for right in (READ, EXECUTE, CONTROL, ADMIN))
    assert [right for right in (READ, EXECUTE, CONTROL, ADMIN) if Rights("x", frozenset({READ})).allows(right)] == [
        READ
    ]


def test_a_rotated_token_is_known_at_once_and_the_old_one_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    own = OwnToken(path)
    assert own.matches(sha256(b"first").digest())

    path.write_text("second")
    os.utime(path, ns=(1, 1))

    assert own.matches(sha256(b"second").digest())
    assert not own.matches(sha256(b"first").digest())


@pytest.mark.parametrize("content", ["", "\n", None])
def test_without_a_token_nothing_matches(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)

    assert not OwnToken(path).matches(sha256(b"").digest())
