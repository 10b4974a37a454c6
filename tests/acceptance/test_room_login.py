"""``cis room login`` as somebody meets it who sets up a second node: what comes next, and what is wrong."""

from __future__ import annotations

from tests.worlds.harness import Sandbox
from tests.worlds.homeserver import PASSWORD, Homeserver

ROOM = "!a:cis.test"


def test_login_says_that_one_node_makes_the_room_and_the_others_join_it(
    homeserver: Homeserver, sandbox: Sandbox
) -> None:
    user, _ = homeserver.register("newcomer-login")
    words = ("room", "login", "--homeserver", homeserver.url, "--user", user)
    first = sandbox.cis(*words, stdin=PASSWORD)
    toml = sandbox.home / "cis.toml"
    toml.write_text(toml.read_text().replace("[matrix]", f'[matrix]\nroom_id = "{ROOM}"'))
    again = sandbox.cis(*words, stdin=PASSWORD)

    assert "on the others put its room_id into [matrix] first" in first.stderr
    assert again.stderr == f"next: 'cis room setup' joins {ROOM}\n"


def test_login_says_that_the_password_is_wrong_and_that_nobody_answers(
    homeserver: Homeserver, sandbox: Sandbox
) -> None:
    user, _ = homeserver.register("forgetful-login")
    wrong = sandbox.cis("room", "login", "--homeserver", homeserver.url, "--user", user, stdin="no")
    nobody = sandbox.cis("room", "login", "--homeserver", "http://127.0.0.1:9", "--user", user, stdin="no")

    assert wrong.returncode == nobody.returncode == 5
    assert f"{homeserver.url} does not let {user} in: the name or the password is wrong" in wrong.stderr
    assert "is the homeserver up, and is that its address?" in nobody.stderr
