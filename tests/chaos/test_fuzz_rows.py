"""Rows, messages and settings made to hurt: only our own errors come out, and whatever else is there goes on.

The rest of this part of the battery is in ``test_fuzz.py``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cis.engine.logfiles import LogFiles
from cis.model.scope import GLOBAL
from cis.node.home import Home
from cis.store import open_store
from cis.store.sqlite.store import SqliteStore
from tests.chaos.fuzzing import messages, readers, rows, settings
from tests.chaos.fuzzing.household import ROOM, Household, furnish
from tests.chaos.fuzzing.trees import seeded
from tests.worlds.battery import figures, first_seed, size

ROWS = size(250, 4_000)
OUTSIDE = size(40, 20)  # after every so many rows the shell and the API are asked as well
MESSAGES = size(1_000, 20_000)
MESSAGES_A_NODE = 50
SETTINGS = size(500, 10_000)
SLOW_S = 10.0
SEED = first_seed()


class Houses:
    """A database with everything in it, and copies of it to be spoiled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.template = folder / "template"
        self.template.mkdir()
        self.house: Household = furnish(self.template)

    @contextmanager
    def fresh(self, name: str) -> Iterator[tuple[SqliteStore, Path]]:
        """Give a copy, which is gone afterwards."""
        folder = self._folder / name
        shutil.copytree(self.template, folder)
        store = open_store(folder / "cis.db")
        store._db.connection.execute("PRAGMA synchronous = OFF")  # no power is lost here
        try:
            yield store, folder
        finally:
            store.close()
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Houses:
    return Houses(tmp_path_factory.mktemp("houses"))


@pytest.mark.timeout(size(300, 1500))
def test_a_value_that_no_program_wrote_stops_nothing_but_what_it_belongs_to(houses: Houses) -> None:
    with houses.fresh("schema") as (store, _):
        columns = rows.aims(rows.columns(store))
    spoiled = refused = 0
    for number in range(SEED, SEED + ROWS):
        chance, column = seeded(number), columns[number % len(columns)]
        with houses.fresh("spoiled") as (store, folder):
            change = rows.spoil(store, houses.house, column, chance)
            if change is None:
                continue
            spoiled += 1
            try:
                refused += _everything_reads(store, houses.house, folder, work=rows.moves_workers(column))
                if spoiled % OUTSIDE == 0:
                    readers.ask_shell(folder)
                    readers.ask_api(folder, houses.house)
            except BaseException:
                print(f"CIS_SEED={number}: {change[:300]}")  # noqa: T201 - pytest shows it with the failure
                raise

    figures("fuzz-rows", seed=SEED, values=spoiled, columns=len(set(columns)), answers_that_were_errors=refused)
    assert spoiled > ROWS // 2
    assert refused


def _everything_reads(store: SqliteStore, house: Household, folder: Path, *, work: bool) -> int:
    logs = LogFiles(folder / "logs")
    began_s = time.monotonic()
    refused = readers.ask_all(store, house)
    readers.read_logs(store, house, logs)
    readers.control_all(store, house)
    readers.tell_others(store, house, logs)
    readers.read_room(store, logs)
    assert time.monotonic() - began_s < SLOW_S
    assert GLOBAL.worker_id in readers.meet_demand(store, folder)
    if work:
        readers.run_to_the_end(store, house, folder)
    refused += readers.ask_all(store, house)
    readers.prune(store, logs)
    return refused


@pytest.mark.timeout(size(240, 1200))
def test_a_message_that_a_trusted_node_signed_is_refused_in_our_own_words_or_acted_upon(houses: Houses) -> None:
    accepted = 0
    for first in range(SEED, SEED + MESSAGES, MESSAGES_A_NODE):
        with houses.fresh("heard") as (store, folder):
            target = messages.Target(store, folder, houses.house)
            for number in range(first, first + MESSAGES_A_NODE):
                chance = seeded(number)
                content, blob, kind = messages.envelope(houses.house, chance, number=number)
                try:
                    if chance.random() < 0.5:
                        accepted += target.push(messages.body_of(messages.sign(content), blob))
                    else:
                        content = messages.sign(content, room_id=ROOM)
                        accepted += target.hear(content, number=number, kind=str(kind))
                except BaseException:
                    print(f"CIS_SEED={first}: message {number}")  # noqa: T201 - pytest shows it with the failure
                    raise
            readers.ask_all(store, houses.house)

    figures("fuzz-messages", seed=SEED, messages=MESSAGES, accepted=accepted)
    assert MESSAGES // 20 < accepted < MESSAGES


@pytest.mark.timeout(size(240, 1500))
def test_settings_keys_and_words_are_read_or_refused_in_our_own_words(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.ensure()
    taken = {"settings": 0, "values": 0, "keys": 0}
    for number in range(SEED, SEED + SETTINGS):
        try:
            taken["settings"] += settings.check_settings(home, seeded(number))
            taken["values"] += settings.check_set_text(home, seeded(number))
            taken["keys"] += settings.check_key(home.key_file, seeded(number))
            settings.check_words(seeded(number))
        except BaseException:
            print(f"CIS_SEED={number}")  # noqa: T201 - pytest shows it with the failure
            raise

    figures("fuzz-settings", seed=SEED, files=SETTINGS, **taken)
    assert all(0 < count < SETTINGS for count in taken.values())
