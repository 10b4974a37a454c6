"""DAG documents: the table ``dag_definitions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cis.errors import NotFoundError
from cis.model.scope_rules import Patterns, allows
from cis.store.records import DefinitionRecord, NewDefinition, Page
from cis.store.sql.rows import DEFINITION, definition_of, read, read_all

if TYPE_CHECKING:
    from cis.store.sql.database import Database

_PUT = (
    "INSERT INTO dag_definitions (dag_id, sha256, document, scope_type, scope_id, target_node, priority,"
    " description, task_count, created_at_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (dag_id, sha256) DO NOTHING"
)
_FIND = "SELECT definition_id FROM dag_definitions WHERE dag_id = ? AND sha256 = ?"
_BY_ID = f"SELECT {DEFINITION} FROM dag_definitions WHERE definition_id = ?"  # noqa: S608 - constants
_PICK = (
    f"SELECT {DEFINITION} FROM dag_definitions WHERE definition_id = coalesce("  # noqa: S608 - constants
    "(SELECT definition_id FROM dag_definitions WHERE dag_id = ?1 AND saved_at_us IS NOT NULL),"
    " (SELECT max(definition_id) FROM dag_definitions WHERE dag_id = ?1))"
)
# From one name to the next by the index, past the versions between them: a DAG may have thousands.
_NAMES = (
    "WITH RECURSIVE names (dag_id) AS (SELECT min(dag_id) FROM dag_definitions WHERE dag_id > ? UNION ALL"
    " SELECT (SELECT min(d.dag_id) FROM dag_definitions d WHERE d.dag_id > names.dag_id) FROM names"
    " WHERE names.dag_id IS NOT NULL) SELECT dag_id FROM names WHERE dag_id IS NOT NULL LIMIT ?"
)
_SAVED_NAMES = "SELECT dag_id FROM dag_definitions WHERE dag_id > ? AND saved_at_us IS NOT NULL ORDER BY dag_id LIMIT ?"
_COUNT_SAVED = (
    "SELECT count(*) FROM (SELECT 1 FROM dag_definitions WHERE dag_id > '' AND saved_at_us IS NOT NULL LIMIT ?) counted"
)
_UNSAVE = (
    "UPDATE dag_definitions SET saved_at_us = NULL WHERE saved_at_us IS NOT NULL"
    " AND dag_id = (SELECT dag_id FROM dag_definitions WHERE definition_id = ?)"
)
_SAVE = "UPDATE dag_definitions SET saved_at_us = ? WHERE definition_id = ?"
_FIND_UNUSED = (
    "SELECT d.definition_id FROM dag_definitions d WHERE d.saved_at_us IS NULL AND NOT EXISTS"
    " (SELECT 1 FROM dag_runs r WHERE r.definition_id = d.definition_id) LIMIT ?"
)
_DROP_UNUSED = (
    "DELETE FROM dag_definitions WHERE definition_id = ? AND saved_at_us IS NULL AND NOT EXISTS"
    " (SELECT 1 FROM dag_runs r WHERE r.definition_id = dag_definitions.definition_id)"
)


class DefinitionRows:
    """The definitions' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, definition: NewDefinition) -> int:
        """Store a document unless that version is there; return its id."""
        self._db.write(
            _PUT,
            (
                definition.dag_id,
                definition.sha256,
                definition.document,
                str(definition.scope.type),
                definition.scope.id,
                definition.target_node,
                int(definition.priority),
                definition.description,
                definition.task_count,
                definition.created_at_us,
            ),
        )
        row = self._db.row(_FIND, (definition.dag_id, definition.sha256))
        if row is None:
            raise NotFoundError("definition of DAG", definition.dag_id)
        number: int = row[0]
        return number

    def save(self, definition_id: int, *, at_us: int | None) -> None:
        """Mark a version as the stored one of its DAG, in place of any other; None: its DAG has none."""
        self._db.lock("saved")
        self._db.write(_UNSAVE, (definition_id,))
        if at_us is not None:
            self._db.write(_SAVE, (at_us, definition_id))

    def saved_count(self, *, at_most: int) -> int:
        """Return how many DAGs are stored, counted no further than *at_most*."""
        self._db.lock("saved")
        row = self._db.row(_COUNT_SAVED, (at_most,))
        return 0 if row is None else int(row[0])

    def current(self, dag_id: str) -> DefinitionRecord | None:
        """Return the stored version of a DAG, or else its newest."""
        row = self._db.row(_PICK, (dag_id,))
        return None if row is None else read("definition", definition_of, row)

    def get(self, definition_id: int) -> DefinitionRecord | None:
        """Return one version."""
        row = self._db.row(_BY_ID, (definition_id,))
        return None if row is None else read("definition", definition_of, row)

    def document(self, definition_id: int) -> str:
        """Return a version's document as JSON text. Raises NotFoundError."""
        row = self._db.row("SELECT document FROM dag_definitions WHERE definition_id = ?", (definition_id,))
        if row is None:
            raise NotFoundError("definition", str(definition_id))
        return str(row[0])

    def page(
        self, *, limit: int, cursor: str | None = None, saved_only: bool = False, scopes: Patterns | None = None
    ) -> Page[DefinitionRecord]:
        """Return one row a DAG, by ``dag_id``; the cursor is the last id of a page, whether or not it may be seen."""
        names = self._db.rows(_SAVED_NAMES if saved_only else _NAMES, (cursor or "", limit + 1))
        rows = [row for (name,) in names[:limit] for row in self._db.rows(_PICK, (name,))]
        found = read_all("definition", definition_of, rows)
        items = tuple(one for one in found if allows(scopes, one.scope))
        return Page(items, str(names[limit - 1][0]) if len(names) > limit else None)

    def unused(self, *, limit: int) -> Sequence[int]:
        """Return ids of documents that are not stored by name, and that no run is of."""
        return [number for (number,) in self._db.rows(_FIND_UNUSED, (limit,))]

    def drop(self, definition_ids: Sequence[int]) -> int:
        """Delete those of them that are still unused; return how many went."""
        return sum(self._db.write(_DROP_UNUSED, (number,)) for number in definition_ids)
