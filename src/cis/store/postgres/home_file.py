"""What a home is, in a file of its own: the database is shared by several."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cis.errors import StoreError
from cis.store.upkeep_port import HomeRecord

if TYPE_CHECKING:
    from cis.store.postgres.connection import Database

HOME_FILE = "home.json"


class HomeFile:
    """Whose home this is, in a file of the home: the database is shared by several."""

    def __init__(self, db: Database) -> None:
        self._home = db.home

    def get(self) -> HomeRecord | None:
        """Return what was kept."""
        return kept_home(self._home)

    def put(self, home: HomeRecord) -> None:
        """Keep it, in place of what was kept before."""
        path = self._home / HOME_FILE
        beside = path.with_name(f"{HOME_FILE}.new")
        try:
            with beside.open("w", encoding="utf-8") as file:
                json.dump(home._asdict(), file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def kept_home(home: Path) -> HomeRecord | None:
    """Return what a home's file says of it; None where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    path = home / HOME_FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return HomeRecord(node_id=str(kept["node_id"]), machine=str(kept["machine"]), path=str(kept["path"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
