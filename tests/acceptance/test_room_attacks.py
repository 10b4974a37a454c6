"""Who is in the room, or runs the homeserver, cannot make a node run anything: each try is refused, and written down."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cis.model.message import Message, MessageKind
from cis.node.identity import KeyFile
from cis.transports.envelope import seal
from cis.transports.keys import Signer, new_private_key
from tests.worlds.cluster import at_once, ended
from tests.worlds.homeserver import Homeserver
from tests.worlds.rooms import Person, RoomCluster, make_room_nodes, start_in_room
from tests.worlds.waiting import wait_for

EXECUTE = "io.cis.dag.execute"
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def cluster(homeserver: Homeserver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoomCluster]:
    """Give the tests two running nodes, and a third that is trusted by node-1 and never runs."""
    made = make_room_nodes(tmp_path_factory.mktemp("cluster"), homeserver, 3)
    try:
        start_in_room(made, *made.nodes[:2])
        yield made
    finally:
        at_once(node.stop for node in made.nodes)


class Attack:
    """Says things in the room, and looks at what node-1 makes of them."""

    def __init__(self, cluster: RoomCluster, folder: Path) -> None:
        self.cluster = cluster
        self.victim = cluster.nodes[0]
        self.folder = folder
        self.two = cluster.person(cluster.nodes[1])
        self.key_of_two = KeyFile(cluster.nodes[1].sandbox.home / "node.key").signer()

    def message(self, **changes: Any) -> Message:
        """Return a message that asks node-1 to run a DAG which leaves a mark."""
        now_us = self.victim_clock_us()
        fields = {
            "dag_id": "attack",
            "scope": {"type": "global", "id": None},
            "scope_source": "default",
            "priority": "normal",
            "epoch": 0,
            "tasks": [{"id": "a", "command": f"touch {self.folder}/executed", "retry_delay": "5.0s"}],
        }
        values: dict[str, Any] = {
            "kind": MessageKind.EXECUTE,
            "message_id": uuid.uuid4().hex,
            "run_id": str(uuid.uuid4()),
            "sender": "node-2",
            "target": "node-1",
            "created_at_us": now_us,
            "expires_at_us": now_us + HOUR_US,
            "fields": fields,
        }
        return Message(**{**values, **changes})

    def victim_clock_us(self) -> int:
        """Return the time; all nodes of a test have one clock."""
        import time  # noqa: PLC0415 - here alone

        return time.time_ns() // 1000

    def sealed(self, message: Message | None = None, *, signer: Signer | None = None) -> dict[str, Any]:
        """Return the signed content of a message for the room."""
        return seal(message or self.message(), signer or self.key_of_two, room_id=self.cluster.room_id)

    def send(self, content: dict[str, Any], *, person: Person | None = None, type_: str = EXECUTE) -> str:
        """Send content as node-2's user, or somebody else; return the event's id."""
        answer = (person or self.two).send(self.cluster.room_id, type_, content)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["event_id"])

    def dealt_with(self, event_id: str) -> str:
        """Wait until node-1 has dealt with an event, and return how: done or refused."""

        def state() -> str | None:
            found = self.victim.sandbox.rows("SELECT state FROM room_events WHERE event_id = ?", (event_id,))
            return str(found[0][0]) if found and found[0][0] != "new" else None

        return wait_for(state, timeout_s=30, what="node-1 to deal with the event") or ""

    def audit(self) -> list[dict[str, Any]]:
        """Return node-1's audit log."""
        entries: list[dict[str, Any]] = self.victim.sandbox.json("audit", "--limit", "10000")
        return entries

    def assert_refused(self, content: dict[str, Any], *, person: Person | None = None) -> dict[str, Any]:
        """Send content; check that it is refused, written down, and nothing executed. Return the audit's entry."""
        before = len(self.audit())
        event_id = self.send(content, person=person)
        assert self.dealt_with(event_id) == "refused"
        entries = self.audit()
        assert len(entries) > before
        assert entries[0]["action"].startswith("refused."), entries[0]
        self.assert_nothing_executed(str(content.get("run_id")))
        return entries[0]

    def assert_nothing_executed(self, run_id: str) -> None:
        """Check that node-1 knows no such run, and that no mark was left."""
        assert not self.victim.sandbox.rows("SELECT 1 FROM dag_runs WHERE run_id = ?", (run_id,))
        assert not (self.folder / "executed").exists()


@pytest.fixture
def attack(cluster: RoomCluster, tmp_path: Path) -> Attack:
    """Give a test what it takes."""
    return Attack(cluster, tmp_path)


def test_what_the_attacks_begin_from_is_executed(attack: Attack) -> None:
    """Or the refusals below would mean nothing."""
    content = attack.sealed()
    event_id = attack.send(content)

    assert attack.dealt_with(event_id) == "done"
    assert ended(attack.victim, content["run_id"])["status"] == "completed"
    assert (attack.folder / "executed").exists()


def _unsigned(content: dict[str, Any]) -> None:
    del content["signatures"]


def _one_byte(content: dict[str, Any]) -> None:
    content["tasks"][0]["command"] += " "


def _other_sender(content: dict[str, Any]) -> None:
    content["sender"] = "node-3"


def _other_room(content: dict[str, Any]) -> None:
    content["room_id"] = "!other:cis.test"


@pytest.mark.parametrize("change", [_unsigned, _one_byte, _other_sender, _other_room])
def test_what_was_changed_after_it_was_signed_is_refused(
    attack: Attack, change: Callable[[dict[str, Any]], None]
) -> None:
    content = attack.sealed()
    change(content)

    attack.assert_refused(content)


def test_an_edit_is_refused_though_its_signature_holds(attack: Attack) -> None:
    """The relation is not signed, since the homeserver has to read it."""
    first = attack.two.say(attack.cluster.room_id, "good morning")
    content = attack.sealed()
    content["m.relates_to"] = {"rel_type": "m.replace", "event_id": first}
    entry = attack.assert_refused(content)

    assert "an edit" in entry["subject"]


def test_an_unknown_key_signs_in_vain(attack: Attack) -> None:
    attack.assert_refused(attack.sealed(signer=Signer(new_private_key())))


def test_a_stranger_whom_somebody_gave_power_is_refused(attack: Attack) -> None:
    """The homeserver lets it through, as a homeserver whose admin is hostile would; node-2's signature does not help."""
    stranger = attack.cluster.newcomer("mallory", level=50)
    entry = attack.assert_refused(attack.sealed(), person=stranger)

    assert entry["actor"] == f"matrix:{stranger.user_id}"


def test_a_member_of_power_level_0_is_refused_by_the_homeserver(attack: Attack) -> None:
    member = attack.cluster.newcomer("member")
    content = attack.sealed()
    answer = member.send(attack.cluster.room_id, EXECUTE, content)

    assert answer.status_code == 403
    attack.assert_nothing_executed(content["run_id"])


def test_an_untrusted_node_is_refused(attack: Attack) -> None:
    """Node-3 is in the room, with power and a key of its own, and node-1 stops trusting it."""
    three = attack.cluster.nodes[2]
    key = KeyFile(three.sandbox.home / "node.key").signer()
    peer = attack.victim.peer("node-3")
    attack.victim.sandbox.json("node", "untrust", "node-3")
    try:
        content = attack.sealed(attack.message(sender="node-3"), signer=key)
        attack.assert_refused(content, person=attack.cluster.person(three))
    finally:
        words = ["--matrix-user", peer["matrix_user"]]
        attack.victim.sandbox.json("node", "trust", "node-3", peer["public_key"], *words)


def test_what_is_replayed_is_not_executed_again_even_after_a_restart(attack: Attack) -> None:
    content = attack.sealed()
    attack.send(content)
    ended(attack.victim, content["run_id"])
    (attack.folder / "executed").unlink()
    first = attack.send(content)
    attack.dealt_with(first)
    attack.victim.stop()
    start_in_room(attack.cluster, attack.victim)
    second = attack.send(content)

    assert attack.dealt_with(second) == "done"
    assert attack.victim.sandbox.rows("SELECT count(*) FROM dag_runs WHERE run_id = ?", (content["run_id"],)) == [(1,)]
    assert not (attack.folder / "executed").exists()


def test_what_has_expired_is_refused(attack: Attack) -> None:
    now_us = attack.victim_clock_us()
    message = attack.message(created_at_us=now_us - 2 * HOUR_US, expires_at_us=now_us - HOUR_US)
    entry = attack.assert_refused(attack.sealed(message))

    assert "message.expired" in entry["subject"]


def test_what_is_for_another_node_is_let_be(attack: Attack) -> None:
    content = attack.sealed(attack.message(target="node-9"))
    event_id = attack.send(content)

    assert attack.dealt_with(event_id) == "done"
    attack.assert_nothing_executed(content["run_id"])


def test_a_redacted_event_is_refused(attack: Attack) -> None:
    """It is redacted while node-1 is away, so that this is all that node-1 ever sees of it."""
    victim, owner = attack.victim, attack.cluster.person(attack.victim)
    victim.stop()
    try:
        content = attack.sealed()
        event_id = attack.send(content)
        path = f"/_matrix/client/v3/rooms/{attack.cluster.room_id}/redact/{event_id}/{uuid.uuid4().hex}"
        owner.call("PUT", path, body={}).raise_for_status()
    finally:
        start_in_room(attack.cluster, victim)

    assert attack.dealt_with(event_id) == "refused"
    attack.assert_nothing_executed(content["run_id"])


@pytest.mark.parametrize("ref", ["wrong hash", "1 GB", "no such medium", "no address"])
def test_a_reference_that_does_not_hold_what_was_signed_is_refused(attack: Attack, ref: str) -> None:
    message = attack.message()
    fields = {name: value for name, value in message.fields.items() if name != "tasks"}
    blob = json.dumps({"document": {"dag_id": "attack", "tasks": [{"id": "a", "command": "true"}]}, "progress": []})
    medium = attack.two.call("POST", "/_matrix/media/v3/upload", body={"not": "that"}).raise_for_status().json()
    size = len(b'{"not":"that"}') if ref == "wrong hash" else 2**30 if ref == "1 GB" else len(blob)
    mxc = "mxc://cis.test/AAAAAAAAAAAAAAAAAAAAAAAA" if ref == "no such medium" else medium["content_uri"]
    dag_ref: dict[str, Any] = {"sha256": "0" * 64, "size": size, "mxc": mxc}
    if ref == "no address":
        dag_ref["mxc"] = "https://example.org/evil"
    content = attack.sealed(attack.message(run_id=message.run_id, fields={**fields, "dag_ref": dag_ref}))

    attack.assert_refused(content)


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b", "..", "a" * 200])
def test_a_run_id_that_would_leave_its_folder_is_refused(attack: Attack, run_id: str) -> None:
    attack.assert_refused(attack.sealed(attack.message(run_id=run_id)))


def test_a_node_without_the_right_to_execute_is_refused_and_its_run_fails(attack: Attack) -> None:
    victim, two = attack.victim, attack.cluster.nodes[1]
    words = ["node-2", two.public_key, "--matrix-user", attack.two.user_id, "--may"]
    victim.sandbox.json("node", "trust", *words, "read")
    try:
        entry = attack.assert_refused(attack.sealed())
        document = {"dag_id": "d", "target_node": "node-1", "tasks": [{"id": "a", "command": "true"}]}
        run = ended(two, two.api.execute(document).body["run_id"])
    finally:
        victim.sandbox.json("node", "trust", *words, "execute,control,read")

    assert "auth.forbidden" in entry["subject"]
    assert run["status"] == "failed"
    assert "may not execute" in run["error"]


def test_a_status_event_of_a_node_that_does_not_hold_the_run_is_refused(attack: Attack) -> None:
    """Node-1 has a run on offer that nobody takes; node-2 says that it has done it."""
    victim = attack.victim
    document = {"dag_id": "mine", "labels": ["quantum"], "tasks": [{"id": "a", "command": "true"}]}
    run_id = victim.api.execute(document).body["run_id"]
    report = {
        "run": {
            "version": 9,
            "status": "completed",
            "worker_id": "worker-global",
            "started_at_us": 1,
            "finished_at_us": 2,
            "error": None,
            "cancel_requested": False,
        },
        "tasks": [],
        "attempts": [],
        "logs": [],
    }
    fields = {"state": "completed", "epoch": 0, "seq": 1, "report": report}
    message = attack.message(kind=MessageKind.STATUS, run_id=run_id, fields=fields)
    event_id = attack.send(attack.sealed(message), type_="io.cis.dag.status")

    assert attack.dealt_with(event_id) == "refused"
    assert victim.api.run(run_id)["status"] == "pending"
    assert attack.audit()[0]["action"] == "refused.status"
    victim.api.call("POST", f"/api/v1/runs/{run_id}/cancel")


def test_a_grant_by_a_node_that_did_not_offer_the_run_is_refused(attack: Attack) -> None:
    """Node-3 offers, node-2 says that node-1 may run it."""
    three = attack.cluster.nodes[2]
    key = KeyFile(three.sandbox.home / "node.key").signer()
    fields = {**attack.message().fields, "labels": ["quantum"], "lease_ms": 60_000}
    offer = attack.message(sender="node-3", target=None, fields=fields)
    attack.dealt_with(attack.send(attack.sealed(offer, signer=key), person=attack.cluster.person(three)))
    grant_fields = {"node_id": "node-1", "epoch": 1, "lease_ms": 60_000}
    grant = attack.message(kind=MessageKind.GRANT, target=None, run_id=offer.run_id, fields=grant_fields)
    event_id = attack.send(attack.sealed(grant), type_="io.cis.dag.grant")

    assert attack.dealt_with(event_id) == "refused"
    attack.assert_nothing_executed(offer.run_id)


def test_a_claim_for_a_run_that_is_not_on_offer_is_refused(attack: Attack) -> None:
    claim = attack.message(kind=MessageKind.CLAIM, fields={"node_id": "node-2", "epoch": 0, "free": 1})
    event_id = attack.send(attack.sealed(claim), type_="io.cis.dag.claim")

    assert attack.dealt_with(event_id) == "refused"


def test_a_room_that_becomes_encrypted_is_worked_in_no_more(attack: Attack) -> None:
    """The last test of this file: it cannot be undone."""
    cluster, victim = attack.cluster, attack.victim
    owner = cluster.person(victim)
    path = f"/_matrix/client/v3/rooms/{cluster.room_id}/state/m.room.encryption/"
    owner.call("PUT", path, body={"algorithm": "m.megolm.v1.aes-sha2"}).raise_for_status()
    wait_for(
        partial(_says, victim.sandbox.node_log, "the room is encrypted"),
        timeout_s=30,
        what="node-1 to see the encryption",
    )
    content = attack.sealed()
    attack.send(content)
    done = victim.sandbox.cis("room", "status", "--json")
    report = json.loads(done.stdout)
    victim.stop()
    victim.start()
    wait_for(
        lambda: victim.sandbox.node_log().count("the room is encrypted") > 1,
        timeout_s=30,
        what="node-1 to see it again",
    )

    assert done.returncode == 5
    assert not report["usable"]
    assert any("encrypt" in fault["message"] for fault in report["faults"])
    assert any(entry["action"] == "refused.room" for entry in attack.audit())
    attack.assert_nothing_executed(content["run_id"])


def _says(log: Callable[[], str], text: str) -> bool:
    return text in log()
