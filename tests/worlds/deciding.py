"""One node's decisions over a real store, with a clock that a test sets: no network, no processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cis.engine.accept.submit import SubmitRequest, submit
from cis.engine.logfiles import LogFiles
from cis.engine.ports import SkillBook
from cis.engine.this_node import ThisNode
from cis.federation.inbox import receive
from cis.federation.messages import ReceivedMessage
from cis.federation.requested import RequestedRun
from cis.model.dag import DagSpec
from cis.model.message import Message, MessageKind, Reply
from cis.skills.registry import InstalledSkills
from cis.store import open_store
from cis.store.cluster import OfferRecord, OutboxItem, PeerRecord, RemoteRun
from cis.store.records import RunChange, RunRecord
from cis.store.sqlite.store import SqliteStore
from tests.worlds.migrated import new_database

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
BOOT = "this-life"


@dataclass(slots=True)
class Decider:
    """Node-1, which trusts node-2 and node-3; both have a Matrix user, and node-2 an address."""

    store: SqliteStore
    logfiles: LogFiles
    now_us: int = START_US
    skills: SkillBook = field(default_factory=InstalledSkills)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def this_node(self) -> ThisNode:
        return ThisNode(
            node_id="node-1",
            skills=self.skills,
            clock_us=lambda: self.now_us,
            uptime_us=lambda: self.now_us - START_US + HOUR_US,
            new_id=lambda: f"id-{next(self._numbers):06}",
            has_room=True,
            offers=True,
            lease_s=60.0,
            boot_id=BOOT,
        )

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.now_us += round(seconds * SECOND_US)

    def submitted(self, *tasks: dict[str, Any], **document: Any) -> RunRecord:
        """Accept a DAG here: an offer, unless it names a node."""
        with self.store.transaction():
            return submit(self.store, SubmitRequest(spec=spec_of(*tasks, **document)), this_node=self.this_node).run

    def hears(
        self,
        kind: MessageKind,
        sender: str,
        run_id: str,
        *,
        target: str | None = "node-1",
        requested: DagSpec | None = None,
        report: Any = None,
        in_room: bool = True,
        expires_in_s: float = 3600.0,
        made_s_ago: float = 0.0,
        **fields: Any,
    ) -> Reply:
        """Act on a message, as if its signature had been checked, and return the answer."""
        peer = self.store.peers.get(sender)
        if peer is None:
            peer = PeerRecord(node_id=sender, public_key="self", may=(), trusted_at_us=0)
        message = Message(
            kind=kind,
            message_id=self.this_node.new_id(),
            sender=sender,
            target=target,
            run_id=run_id,
            created_at_us=self.now_us - round(made_s_ago * SECOND_US),
            expires_at_us=self.now_us + round(expires_in_s * SECOND_US),
            fields=fields,
        )
        received = ReceivedMessage(
            message=message,
            peer=peer,
            source="test",
            requested=None if requested is None else RequestedRun(spec=requested),
            report=report,
            event_id="$event" if in_room else None,
        )
        with self.store.transaction():
            return receive(self.store, received, this_node=self.this_node, logfiles=self.logfiles).reply

    def remote(self, run_id: str) -> RemoteRun:
        """Return the other node's part in a run that has one."""
        found = self.store.remotes.get(run_id)
        assert found is not None
        return found

    def run(self, run_id: str) -> RunRecord:
        """Return a run that is there."""
        found = self.store.runs.get(run_id)
        assert found is not None
        return found

    def offer(self, run_id: str) -> OfferRecord:
        """Return an offer that was seen."""
        found = self.store.offers.get(run_id)
        assert found is not None
        return found

    def posted(self, run_id: str, kind: MessageKind) -> list[OutboxItem]:
        """Return what of a kind is to be sent about a run."""
        return [item for item in self.store.outbox.of_run(run_id) if item.kind == kind]

    def change_run(self, run_id: str, **changes: Any) -> None:
        """Change the row of a run."""
        with self.store.transaction():
            self.store.runs.change(self.run(run_id), RunChange(**changes))

    def change(self, run_id: str, **changes: Any) -> None:
        """Change the other node's part in a run."""
        with self.store.transaction():
            self.store.remotes.put(replace(self.remote(run_id), **changes))


def spec_of(*tasks: dict[str, Any], dag_id: str = "demo", **document: Any) -> DagSpec:
    """Return a DAG; ``true`` where a task says nothing."""
    listed = [{"id": f"t{number}", "command": "true", **task} for number, task in enumerate(tasks or ({},))]
    return DagSpec.from_dict({"dag_id": dag_id, "tasks": listed, **document})


@contextmanager
def decider(folder: Path) -> Iterator[Decider]:
    """Give a test node-1."""
    store = open_store(new_database(folder))
    try:
        with store.transaction():
            for number in (2, 3):
                store.peers.put(
                    PeerRecord(
                        node_id=f"node-{number}",
                        public_key=f"key-{number}",
                        may=("execute", "control", "read"),
                        trusted_at_us=1,
                        url="http://127.0.0.1:1" if number == 2 else None,
                        matrix_user=f"@node-{number}:x",
                    )
                )
        yield Decider(store, LogFiles(folder / "logs"))
    finally:
        store.close()
