"""How the nodes that share a database wake each other: LISTEN and NOTIFY, on one connection of each node.

    told, told_work ──> one thread ──NOTIFY──> the threads of the others ──> heard

What is to be done stands in the tables, so a message may be lost, doubled or merged without harm: everybody looks once
a second by itself. A message is sent after the commit that it is about, never inside it: PostgreSQL lets those that
send one commit one after the other. It is a transaction of its own that waits for no disk (``synchronous_commit``), and
the thread sends at most one every ``WORK_PAUSE_S``, or ``STORED_PAUSE_S`` where only who watches wants to know. While
there is no connection nothing is sent; once there is one again, everybody here looks.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psycopg
from psycopg import Notify

from cis.errors import StoreError
from cis.store.postgres.connection import Address, connect, store_error
from cis.store.sql.database import Row

log = logging.getLogger(__name__)

CHANNEL = "cis_stored"
WORK_PAUSE_S = 0.01
STORED_PAUSE_S = 0.1
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
MAX_BYTES = 7_000  # a message of PostgreSQL has 7,999 at most
_STORED, _WORK = "stored", "work"

Heard = Callable[[frozenset[str] | None], None]
"""Called with the workers that have something to do, as far as they were named; with None when nothing is to be done."""


class PostgresBells:
    """The connection of one node; its thread calls *heard* when another node of the database has stored something."""

    def __init__(self, address: Address, heard: Heard) -> None:
        self._address = address
        self._heard = heard
        self._lock = threading.Lock()
        self._told = False
        self._workers: set[str] | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="bells", daemon=True)
        self._thread.start()

    def told(self) -> None:
        """Something was stored. From any thread, and cheap."""
        with self._lock:
            if not self._told and not self._closed:
                self._told = True
                self._wake()

    def told_work(self, worker_ids: Iterable[str] = ()) -> None:
        """Something was stored that others may have to do; *worker_ids* are the workers, if they are known."""
        with self._lock:
            if self._closed:
                return
            if self._workers is None:
                self._workers = set()
                self._wake()
            self._workers.update(worker_ids)

    def close(self) -> None:
        """Stop listening; what was not sent yet is not sent. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # first: the thread looks at it once it is awake
            self._wake()
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is awake already
            os.write(self._writer, b"!")

    def _serve(self) -> None:
        pause_s, missed = FIRST_PAUSE_S, False
        while not self._closed:
            try:
                with connect(self._address) as connection:
                    connection.add_notify_handler(self._note)
                    connection.execute("SET synchronous_commit = off")
                    connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._pid = connection.info.backend_pid
                    self._noted: list[str] = []
                    if missed:
                        self._noted.append(_WORK)
                    pause_s = FIRST_PAUSE_S
                    self._listen(connection)
            except (StoreError, psycopg.Error) as error:
                if pause_s == FIRST_PAUSE_S:
                    told = error if isinstance(error, StoreError) else store_error(error, self._address.text)
                    log.warning("other nodes of the store are not heard; connecting again", extra={"error": str(told)})
            missed = True
            self._rest(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _rest(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self._closed and (left_s := until_s - time.monotonic()) > 0:
            self._wait([self._reader], left_s)
            self._drain()

    @staticmethod
    def _wait(descriptors: list[int], timeout_s: float | None) -> set[int]:
        poll = select.poll()  # a node may have more descriptors than select(2) can name
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        timeout_ms = None if timeout_s is None else math.ceil(timeout_s * 1000)
        return {descriptor for descriptor, _ in poll.poll(timeout_ms)}

    def _listen(self, connection: psycopg.Connection[Row]) -> None:
        """Hear and tell until the node stops. Raises psycopg.Error: the connection was lost."""
        sent_s = -STORED_PAUSE_S
        while not self._closed:
            self._pass_on()
            due_s = self._due_s(sent_s)
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            ready = self._wait([connection.fileno(), self._reader], wait_s)
            self._drain()
            if connection.fileno() in ready:
                connection.pgconn.consume_input()
                while note := connection.pgconn.notifies():
                    self._note(Notify(CHANNEL, note.extra.decode(), note.be_pid))
            if due_s is not None and time.monotonic() >= due_s and not self._closed:
                connection.execute("SELECT pg_notify($1, $2)", (CHANNEL, self._message()))
                sent_s = time.monotonic()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    def _due_s(self, sent_s: float) -> float | None:
        """Return when the next message is to be sent; None where nothing is to be told."""
        with self._lock:
            if self._workers is not None:
                return sent_s + WORK_PAUSE_S
            return sent_s + STORED_PAUSE_S if self._told else None

    def _message(self) -> str:
        with self._lock:
            workers, self._workers, self._told = self._workers, None, False
        if workers is None:
            return _STORED
        message = "\n".join([_WORK, *sorted(workers)])
        return message if len(message.encode()) <= MAX_BYTES else _WORK

    def _note(self, note: Notify) -> None:
        if note.pid != self._pid:
            self._noted.append(note.payload)

    def _pass_on(self) -> None:
        noted, self._noted = self._noted, []
        if not noted:
            return
        works = [message.split("\n")[1:] for message in noted if message.partition("\n")[0] == _WORK]
        try:
            self._heard(frozenset(name for names in works for name in names) if works else None)
        except Exception:  # a node that hears nothing more would look as if it did
            log.exception("what another node has stored could not be passed on")
