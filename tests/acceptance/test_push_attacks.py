"""Attacks on a node by push: each is refused and written into the audit log, and nothing is executed."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import select
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cis.federation.service import NotDelivered
from cis.model.message import Message, MessageKind
from cis.node.clock import new_id, now_us
from cis.store.cluster import PeerRecord
from cis.store.shares import MAX_REFUSALS
from cis.transports import push
from cis.transports.envelope import EXECUTE_PATH, MEDIA_TYPE, MESSAGES_PATH, frame, open_envelope, seal
from cis.transports.keys import Signer, canonical, new_private_key
from cis.transports.push import PushClient
from tests.worlds.cluster import ClusterNode, Listener, ended, http_answer, make_nodes, running, statuses
from tests.worlds.serving import node_under_test
from tests.worlds.waiting import wait_for

RIGHTS = {
    "node-2": "execute,control,read",
    "node-3": "execute,control,read",
    "reader": "read",
    "runner": "execute",
    "gone": "execute,control,read",
    "slow": "execute,control,read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the node answered: the HTTP status, and the result and the code of its signed answer or of its problem."""

    status: int
    result: str
    code: str


@dataclass(slots=True)
class Stage:
    """A real node, and the keys of nodes that it trusts, of which none runs: the test speaks in their names."""

    node: ClusterNode
    marks: Path
    keys: dict[str, Signer] = field(default_factory=dict)

    def message(self, kind: MessageKind = MessageKind.EXECUTE, **changes: Any) -> Message:
        """Return a message of node-2 that would be acted upon: a DAG that leaves a mark under its run's id."""
        run_id = changes.pop("run_id", None) or new_id()
        fields: dict[str, Any] = {}
        if kind is MessageKind.EXECUTE:
            fields = {**self.head(), "tasks": [{"id": "t", "command": f"echo $CIS_RUN_ID >> {self.marks}/$CIS_RUN_ID"}]}
        message = Message(
            kind=kind,
            message_id=new_id(),
            sender="node-2",
            target=self.node.node_id,
            run_id=run_id,
            created_at_us=now_us(),
            expires_at_us=now_us() + 600_000_000,
            fields=fields,
        )
        return replace(message, **changes)

    def head(self) -> dict[str, Any]:
        """Return what each execute message says of its DAG."""
        return {
            "dag_id": "attack",
            "scope": {"type": "global", "id": None},
            "scope_source": "default",
            "priority": "normal",
            "epoch": 0,
        }

    def large(self) -> Message:
        """Return an execute message whose DAG travels beside it."""
        tasks = [{"id": "t", "command": f"echo $CIS_RUN_ID >> {self.marks}/$CIS_RUN_ID"}]
        blob = json.dumps({"document": {"dag_id": "attack", "tasks": tasks}, "progress": []})
        return self.message(fields=self.head(), blob_name="dag_ref", blob=blob)

    def body(self, message: Message, signer: Signer | None = None) -> bytes:
        """Return a message as its sender would send it, or as another signs it."""
        return frame(seal(message, signer or self.keys[message.sender]), message)

    def send(self, body: bytes, *, path: str = MESSAGES_PATH) -> Said:
        """Send a body, and return the answer, which has to be the node's own."""
        headers = {"Content-Type": MEDIA_TYPE}
        request = urllib.request.Request(self.node.url + path, data=body, headers=headers, method="POST")  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
                return self.said(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return self.said(error.code, error.read())

    def said(self, status: int, data: bytes) -> Said:
        """Return an answer: a problem, or what the node has signed."""
        if status >= 400:
            return Said(status=status, result="problem", code=json.loads(data)["code"])
        content = json.loads(data.partition(b"\n")[0])
        opened = open_envelope(content, trusted_key={self.node.node_id: self.node.public_key}.get)
        return Said(status=status, result=opened.message.fields["result"], code=opened.message.fields["code"])

    def last_audit(self) -> int:
        """Return the number of the newest entry."""
        entries = self.node.sandbox.json("audit", "--limit", "1")
        return int(entries[0]["seq"]) if entries else 0

    def audited_since(self, seq: int) -> list[tuple[str, str, str]]:
        """Return who did what to what since then."""
        entries = self.node.sandbox.json("audit", "--limit", "100")
        return [(entry["actor"], entry["action"], entry["subject"]) for entry in entries if entry["seq"] > seq]

    def runs(self) -> int:
        """Return how many runs the node has."""
        return int(self.node.sandbox.rows("SELECT count(*) FROM dag_runs")[0][0])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """node-1 runs, and trusts the nodes of ``RIGHTS``, but for gone, which it trusted before."""
    folder = tmp_path_factory.mktemp("stage")
    (node,) = make_nodes(folder, 1)
    marks = folder / "marks"
    marks.mkdir()
    made = Stage(node, marks, {name: Signer(new_private_key()) for name in (*RIGHTS, "stranger")})
    for name, may in RIGHTS.items():
        node.sandbox.json("node", "trust", name, made.keys[name].public_key, "--may", may)
    node.sandbox.json("node", "untrust", "gone")
    with running(node):
        yield made


def test_what_a_trusted_node_signed_is_executed(stage: Stage) -> None:
    """So that the refusals below are for what each attack changes."""
    inline, large = stage.message(), stage.large()

    said = [stage.send(stage.body(message), path=EXECUTE_PATH) for message in (inline, large)]
    for message in (inline, large):
        ended(stage.node, message.run_id)

    assert said == [Said(status=202, result="accepted", code="")] * 2
    assert (stage.marks / inline.run_id).exists()
    assert (stage.marks / large.run_id).exists()


def _unsigned(stage: Stage) -> bytes:
    content = seal(stage.message(), stage.keys["node-2"])
    del content["signatures"]
    return canonical(content) + b"\n"


def _changed(old: bytes, new: bytes, *, large: bool = False) -> Callable[[Stage], bytes]:
    def build(stage: Stage) -> bytes:
        body = stage.body(stage.large() if large else stage.message())
        assert body.count(old) == 1
        assert len(old) == len(new)
        return body.replace(old, new)

    return build


def _signature_of(stage: Stage) -> bytes:
    content = seal(stage.message(), stage.keys["node-2"])
    signatures = content["signatures"]["node-2"]
    name, text = next(iter(signatures.items()))
    signatures[name] = ("B" if text[0] == "A" else "A") + text[1:]
    return canonical(content) + b"\n"


def _forged_sender(stage: Stage) -> bytes:
    """node-3 signs, and then writes node-2's name into it, at every place."""
    content = seal(stage.message(sender="node-3"), stage.keys["node-3"])
    content["sender"] = "node-2"
    content["signatures"] = {"node-2": content["signatures"]["node-3"]}
    return canonical(content) + b"\n"


def _with_the_key_id_of(stage: Stage) -> bytes:
    """A stranger says that its key is node-2's."""
    content = seal(stage.message(), stage.keys["stranger"])
    real = stage.keys["node-2"].key_id
    unsigned = {**content, "key_id": real}
    del unsigned["signatures"]
    signature = stage.keys["stranger"].sign(canonical(unsigned))
    return canonical({**unsigned, "signatures": {"node-2": {f"ed25519:{real}": signature}}}) + b"\n"


def _handed_over_by_itself(stage: Stage) -> bytes:
    """A stranger says that node-2's key handed over to its own, and signs that itself."""
    stranger = stage.keys["stranger"]
    word = replace(stranger.hand_over("node-2", stranger.public_key), old_key=stage.keys["node-2"].public_key)
    private = new_private_key()
    signer = Signer(private, successions=[replace(word, public_key=Signer(private).public_key)])
    return stage.body(stage.message(), signer)


def _for_a_room(stage: Stage) -> bytes:
    message = stage.message()
    return canonical(seal(message, stage.keys["node-2"], room_id="!room:example.org")) + b"\n"


UNTRUSTED = Said(status=401, result="problem", code="message.untrusted")
MALFORMED = Said(status=400, result="problem", code="message.malformed")
STRANGERS: Mapping[str, tuple[Callable[[Stage], bytes], Said]] = {
    "unsigned": (_unsigned, UNTRUSTED),
    "signed by an unknown key": (lambda stage: stage.body(stage.message(), stage.keys["stranger"]), UNTRUSTED),
    "of an unknown node": (lambda stage: stage.body(stage.message(sender="stranger")), UNTRUSTED),
    "of a node that was untrusted": (lambda stage: stage.body(stage.message(sender="gone")), UNTRUSTED),
    "signed by another node": (lambda stage: stage.body(stage.message(), stage.keys["node-3"]), UNTRUSTED),
    "with a forged sender": (_forged_sender, UNTRUSTED),
    "with the id of another key": (_with_the_key_id_of, UNTRUSTED),
    "with a succession that it made itself": (_handed_over_by_itself, UNTRUSTED),
    "with a changed command": (_changed(b"echo $CIS", b"true;$CIS"), UNTRUSTED),
    "with a changed priority": (_changed(b'"normal"', b'"urgent"'), UNTRUSTED),
    "with a changed reference to its blob": (_changed(b'"size":', b'"sizE":', large=True), UNTRUSTED),
    "with a changed signature": (_signature_of, UNTRUSTED),
    "signed for a room": (_for_a_room, UNTRUSTED),
    "with a path as its run id": (lambda stage: stage.body(stage.message(run_id="../../etc/passwd")), MALFORMED),
    "with a path as its sender": (
        lambda stage: stage.body(stage.message(sender="../node-2"), stage.keys["node-2"]),
        MALFORMED,
    ),
    "no JSON": (lambda _: b"{\n", MALFORMED),
    "no object": (lambda _: b"[1]\n", MALFORMED),
    "of another version": (_changed(b'"v":1', b'"v":2'), MALFORMED),
    "without a line's end": (lambda _: b"{}", MALFORMED),
    "a line of over 128 KiB": (lambda _: b'{"v":1,"x":"' + b"x" * 200_000 + b'"}\n', MALFORMED),
    "half a character as its sender": (lambda _: b'{"v":1,"message_id":"m","sender":"\\ud800"}\n', MALFORMED),
    "orders to a terminal as its sender": (
        lambda _: b'{"v":1,"message_id":"m","sender":"\\u001b[2Jnode-2"}\n', MALFORMED,
    ),
    "a list as its sender": (lambda _: b'{"v":1,"message_id":"m","sender":["node-2"]}\n', MALFORMED),
    "deeply nested": (lambda _: b"[" * 100_000 + b"\n", MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("attack", STRANGERS)
def test_a_message_that_no_trusted_node_signed_like_that_is_refused_and_audited(stage: Stage, attack: str) -> None:
    build, expected = STRANGERS[attack]
    seq, runs = stage.last_audit(), stage.runs()

    said = stage.send(build(stage))
    entries = stage.audited_since(seq)

    assert said == expected
    assert [(action, subject) for _, action, subject in entries] == [("refused.message", expected.code)]
    assert entries[0][0].startswith("unverified:")
    assert entries[0][0].isprintable()
    assert stage.runs() == runs


def _blob_changed(stage: Stage) -> bytes:
    body = stage.body(stage.large())
    return body[:-1] + b" "


def _wrong_hash(stage: Stage) -> bytes:
    message = stage.large()
    data = (message.blob or "").encode()
    ref = {"sha256": hashlib.sha256(b"another").hexdigest(), "size": len(data)}
    signed = stage.body(replace(message, fields={**message.fields, "dag_ref": ref}, blob_name=None, blob=None))
    return signed + data


def _expired(stage: Stage) -> bytes:
    at_us = now_us() - 10_000_000
    return stage.body(stage.message(created_at_us=at_us, expires_at_us=at_us + 5_000_000))


def _control(sender: str, action: str = "cancel", *, of: str = "node-2") -> Callable[[Stage], bytes]:
    fields = {"action": action, "seq": 99}
    return lambda stage: stage.body(
        stage.message(MessageKind.CONTROL, run_id=_run_of(stage, of), sender=sender, fields=fields)
    )


def _status(stage: Stage) -> bytes:
    report = {"run": {"version": 99, "status": "failed", "worker_id": "worker-global", "cancel_requested": False}}
    fields = {"epoch": 0, "state": "failed", "seq": 99, "report": {**report, "tasks": [], "attempts": [], "logs": []}}
    return stage.body(stage.message(MessageKind.STATUS, run_id=_run_of(stage), sender="node-3", fields=fields))


def _run_of(stage: Stage, sender: str = "node-2") -> str:
    """Return a run of a node that is over."""
    received = "SELECT run_id FROM remote_runs WHERE peer = ? AND role = 'received'"
    known = stage.node.sandbox.rows(received, (sender,))
    if known:
        return str(known[0][0])
    message = stage.message(sender=sender)
    stage.send(stage.body(message))
    return str(ended(stage.node, message.run_id)["run_id"])


def _with_fields(stage: Stage, **fields: Any) -> Message:
    message = stage.message()
    return replace(message, fields={**message.fields, **fields})


def _refused(code: str) -> Said:
    return Said(status=202, result="refused", code=code)


TRUSTED: Mapping[str, tuple[Callable[[Stage], bytes], str, str]] = {
    "a changed blob": (_blob_changed, "execute", "message.untrusted"),
    "a blob that is too short": (lambda stage: stage.body(stage.large())[:-1], "execute", "message.malformed"),
    "a blob that is too long": (lambda stage: stage.body(stage.large()) + b" ", "execute", "message.malformed"),
    "a reference with the wrong hash": (_wrong_hash, "execute", "message.untrusted"),
    "an expired message": (_expired, "execute", "message.expired"),
    "one for another node": (lambda stage: stage.body(stage.message(target="node-3")), "execute", "message.misaddressed"),
    "a node that may not execute": (lambda stage: stage.body(stage.message(sender="reader")), "execute", "auth.forbidden"),
    "a node that may not control": (_control("runner", of="runner"), "control", "auth.forbidden"),
    "a node that may not read": (
        lambda stage: stage.body(
            stage.message(MessageKind.ASK, run_id=_run_of(stage, "runner"), sender="runner", fields={"after": ""})
        ), "ask", "auth.forbidden",
    ),
    "control of somebody else's run": (_control("node-3"), "control", "auth.forbidden"),
    "control of no known kind": (_control("node-2", "erase"), "control", "message.malformed"),
    "control with a list as its action": (
        lambda stage: stage.body(
            stage.message(MessageKind.CONTROL, run_id=_run_of(stage), fields={"action": [], "seq": 99})
        ), "control", "message.malformed",
    ),
    "progress of a task whose id is a list": (
        lambda stage: stage.body(_with_fields(stage, progress=[{"id": []}])), "execute", "message.malformed",
    ),
    "a scope that is a list": (lambda stage: stage.body(_with_fields(stage, scope=[])), "execute", "message.malformed"),
    "a scope whose id is a number": (
        lambda stage: stage.body(_with_fields(stage, scope={"type": "project", "id": 5})),
        "execute",
        "message.malformed",
    ),
    "a status of a node that does not hold the run": (_status, "status", "auth.forbidden"),
    "a DAG under another name than its document's": (
        lambda stage: stage.body(replace(stage.large(), fields={**stage.head(), "dag_id": "other"})),
        "execute",
        "message.malformed",
    ),
    "a run without an id": (
        lambda stage: stage.body(replace(stage.message(), run_id="")), "execute", "message.malformed",
    ),
    "somebody else's run again": (
        lambda stage: stage.body(stage.message(run_id=_run_of(stage), sender="node-3")), "execute", "run.known",
    ),
    "an answer that nobody waits for": (
        lambda stage: stage.body(stage.message(MessageKind.ANSWER)), "answer", "message.malformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", TRUSTED)
def test_what_a_trusted_node_may_not_do_is_refused_and_audited(stage: Stage, attack: str) -> None:
    build, kind, code = TRUSTED[attack]
    body = build(stage)
    seq, before = stage.last_audit(), _all_runs(stage)

    said = stage.send(body)
    entries = stage.audited_since(seq)

    assert said == _refused(code)
    assert [action for _, action, _ in entries] == [f"refused.{kind}"]
    assert entries[0][0].startswith("node:")
    assert entries[0][2].endswith(f"({code})")
    assert _all_runs(stage) == before


def test_a_dag_that_nobody_is_named_to_run_is_not_run_because_it_was_pushed(stage: Stage) -> None:
    """Offers belong to the room; there is none here."""
    before = _all_runs(stage)
    offer = stage.message(target=None)

    stage.send(stage.body(offer))
    grant = {"node_id": "node-1", "epoch": 1, "lease_ms": 60_000}
    granted = stage.send(stage.body(stage.message(MessageKind.GRANT, run_id=offer.run_id, target=None, fields=grant)))

    assert granted.result == "refused"
    assert _all_runs(stage) == before
    assert not (stage.marks / offer.run_id).exists()


def test_a_reference_to_a_gigabyte_is_refused_before_any_of_it_is_read(stage: Stage) -> None:
    ref = {"sha256": "0" * 64, "size": 2**30}
    line = stage.body(stage.message(fields={**stage.head(), "dag_ref": ref}))
    seq, runs = stage.last_audit(), stage.runs()

    with _connected(stage) as connection:
        connection.sendall(_head(stage, f"Content-Length: {len(line) + 2**30}") + line)
        said = _answer_on(stage, connection)

    assert said == _refused("message.malformed")
    assert [action for _, action, _ in stage.audited_since(seq)] == ["refused.execute"]
    assert stage.runs() == runs


@pytest.mark.parametrize("trusted", [False, True])
def test_a_body_that_never_ends_is_answered_without_waiting_for_its_end(stage: Stage, *, trusted: bool) -> None:
    """A stranger's after 128 KiB, a trusted node's after what it said would come; the rest is dropped."""
    line = stage.body(stage.large()) if trusted else b""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    seq, runs, sent = stage.last_audit(), stage.runs(), 0

    with _connected(stage) as connection:
        connection.sendall(_head(stage, "Transfer-Encoding: chunked"))
        if line:
            connection.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        while sent < 2**28 and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += 65536
        said = _answer_on(stage, connection)
    entries = stage.audited_since(seq)

    assert sent < 2**28
    assert said == (_refused("message.malformed") if trusted else MALFORMED)
    assert [action for _, action, _ in entries] == ["refused.execute" if trusted else "refused.message"]
    assert stage.runs() == runs
    assert stage.node.api.call("GET", "/ready", token=None).status == 200


def test_a_body_that_stops_in_the_middle_does_not_hold_its_connection_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "CONTENT_S", 0.1)

    async def half() -> AsyncIterator[bytes]:
        yield b'{"v":1'
        await asyncio.sleep(3600)

    with node_under_test(tmp_path) as node:
        answer = node.call("POST", MESSAGES_PATH, content=half(), headers={"Content-Type": MEDIA_TYPE})
        audited = [entry.action for entry in node.store.audit.page(limit=5)]

    assert (answer.status_code, answer.json()["code"]) == (400, "message.malformed")
    assert "did not come whole" in answer.json()["detail"]
    assert audited == ["refused.message"]


def test_a_node_that_is_untrusted_while_its_message_comes_in_is_refused(stage: Stage) -> None:
    """Its signature was checked before, and held."""
    body = stage.body(replace(stage.large(), sender="slow"))
    line = body.partition(b"\n")[0] + b"\n"
    runs = stage.runs()

    with _connected(stage) as connection:
        connection.sendall(_head(stage, f"Content-Length: {len(body)}") + line)
        wait_for(lambda: stage.node.peer("slow")["last_contact"], what="the signature to be checked")
        stage.node.sandbox.json("node", "untrust", "slow")
        connection.sendall(body[len(line) :])
        said = _answer_on(stage, connection)

    assert said == _refused("message.untrusted")
    assert stage.runs() == runs


def test_a_replay_is_answered_as_what_it_is_after_the_run_and_after_a_restart_and_runs_nothing(stage: Stage) -> None:
    message = stage.message()
    body = stage.body(message)
    cancel = stage.body(
        stage.message(MessageKind.CONTROL, run_id=message.run_id, fields={"action": "cancel", "seq": 1})
    )
    first = stage.send(body)
    ended(stage.node, message.run_id)

    again = [stage.send(body, path=path) for path in (EXECUTE_PATH, MESSAGES_PATH)]
    cancels = [stage.send(cancel), stage.send(cancel)]
    stage.node.kill()
    stage.node.start()
    after_restart = stage.send(body)
    run = stage.node.api.run(message.run_id)

    duplicate = Said(status=202, result="duplicate", code="")
    assert first.result == "accepted"
    assert [*again, after_restart] == [duplicate] * 3
    assert [said.result for said in cancels] == ["duplicate", "duplicate"]
    assert (run["status"], run["tasks"][0]["attempts"]) == ("completed", 1)
    assert (stage.marks / message.run_id).read_text() == f"{message.run_id}\n"


def test_another_dag_under_a_run_id_that_was_used_is_refused(stage: Stage) -> None:
    first = stage.message()
    stage.send(stage.body(first))
    ended(stage.node, first.run_id)
    other = replace(first, message_id=new_id(), fields={**first.fields, "tasks": [{"id": "u", "command": "true"}]})

    said = stage.send(stage.body(other))

    assert said == _refused("run.known")
    assert [task["id"] for task in stage.node.api.run(first.run_id)["tasks"]] == ["t"]


def test_strangers_who_come_in_floods_fill_neither_the_audit_log_nor_the_node(tmp_path: Path) -> None:
    with node_under_test(tmp_path) as node:
        answers = {
            node.call("POST", MESSAGES_PATH, content=b"{}\n", headers={"Content-Type": MEDIA_TYPE}).status_code
            for _ in range(200)
        }
        audited = len(node.store.audit.page(limit=1000))

    assert answers == {400}
    assert audited == MAX_REFUSALS


METADATA = "http://169.254.169.254/latest/meta-data/"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_peer_that_redirects_is_not_followed_and_its_run_waits(stage: Stage, status: str) -> None:
    """Neither to the metadata of a cloud, nor to a server of this test, which sees that nobody comes."""
    with Listener(None) as trap:
        target = METADATA if status.startswith("302") else f"{trap.url}/there"
        with Listener(http_answer(status, {"Location": target})) as redirecting:
            run_id, warning = _queued_for(stage, redirecting)
            stands = statuses(stage.node, [run_id])
            wait_for(
                # Once for an address, by whichever message was there first: a cancel of an earlier test may still be due.
                lambda: [
                    entry for entry in stage.node.audited("refused.redirect") if entry["source"] == redirecting.url
                ],
                timeout_s=20,
                what="the redirect to be written down",
            )
            _forget_node_2(stage)
        asked = [request.split(b" ")[1].decode() for request in redirecting.requests]

    assert "redirects, which is refused" in warning
    assert set(asked) <= {EXECUTE_PATH, MESSAGES_PATH}
    assert EXECUTE_PATH in asked
    assert trap.requests == []
    assert stands == {run_id: "pending"}


def test_a_peer_that_does_not_sign_its_answer_has_taken_nothing(stage: Stage) -> None:
    """An accepting answer without a signature, of another key, and of another message."""
    ping = stage.message(MessageKind.PING)
    for signer, reply_to, media in (
        (None, "", "application/json"),
        (None, "", MEDIA_TYPE),
        (stage.keys["stranger"], "", MEDIA_TYPE),
        (stage.keys["node-2"], ping.message_id, MEDIA_TYPE),
    ):
        answer = stage.message(
            MessageKind.ANSWER, fields={"reply_to": reply_to, "result": "accepted", "code": "", "detail": ""}
        )
        content = seal(answer, signer or stage.keys["node-2"])
        if signer is None:
            del content["signatures"]
        body = canonical(content) + b"\n"
        with Listener(http_answer("202 Accepted", {"Content-Type": media}, body)) as lying:
            run_id, warning = _queued_for(stage, lying)
            stands = statuses(stage.node, [run_id])
        _forget_node_2(stage)

        assert "HTTP 202" in warning or "gave no answer of node node-2" in warning
        assert stands == {run_id: "pending"}


def test_a_peer_that_answers_without_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "WHOLE_S", 0.3)
    key = Signer(new_private_key())

    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 202 Accepted\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 99999\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async def send() -> object:
        server = await asyncio.start_server(dribble, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        peer = PeerRecord(node_id="node-2", public_key=key.public_key, may=(), trusted_at_us=0, url=url)
        client = PushClient(signer=lambda: key, clock_us=lambda: 0)
        message = Message(
            kind=MessageKind.PING, message_id="m", sender="node-1", created_at_us=0, expires_at_us=1, target="node-2"
        )
        try:
            return await client.send(message, peer)
        finally:
            await client.aclose()
            server.close()

    begun_s = time.monotonic()
    answer = asyncio.run(send())

    assert isinstance(answer, NotDelivered)
    assert answer.uncertain
    assert time.monotonic() - begun_s < 5


def _queued_for(stage: Stage, listener: Listener) -> tuple[str, str]:
    """Post a DAG for node-2, which is said to be where *listener* is; return its run, and what the list says of node-2."""
    node = stage.node
    node.sandbox.json("node", "trust", "node-2", stage.keys["node-2"].public_key, "--url", listener.url)
    document = {"dag_id": "out", "target_node": "node-2", "tasks": [{"id": "t", "command": "true"}]}
    answer = node.api.execute({**document, "scope": f"project:{new_id()}"})
    run_id = str(answer.body["run_id"])
    warning = wait_for(lambda: node.peer("node-2")["warning"], what="the fault in the list of nodes")
    wait_for(lambda: any(EXECUTE_PATH.encode() in request for request in listener.requests), what="a try")
    stands = statuses(node, [run_id])

    assert (answer.status, answer.body["delivery"]) == (202, "queued")
    assert stands == {run_id: "pending"}
    assert node.peer("node-2")["outbox"] >= 1
    return run_id, str(warning)


def _forget_node_2(stage: Stage) -> None:
    """Give up what waits for node-2, and trust it again, without an address."""
    stage.node.sandbox.json("node", "untrust", "node-2")
    stage.node.sandbox.json("node", "trust", "node-2", stage.keys["node-2"].public_key)


def _all_runs(stage: Stage) -> list[tuple[Any, ...]]:
    return stage.node.sandbox.rows("SELECT run_id, status, cancel_requested, version FROM dag_runs ORDER BY run_id")


def _connected(stage: Stage) -> socket.socket:
    parts = urlsplit(stage.node.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def _head(stage: Stage, length: str) -> bytes:
    host = urlsplit(stage.node.url).netloc
    return f"POST {EXECUTE_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {MEDIA_TYPE}\r\n{length}\r\n\r\n".encode()


def _answer_on(stage: Stage, connection: socket.socket) -> Said:
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    return stage.said(response.status, response.read())
