"""Runs: the table ``dag_runs``, and lists of them that are quick however many there are.

An index for each combination of filters would cost every change of a run too much. Instead there are three, and each
begins with what is asked for and ends with the place in the order of acceptance: ``dag_runs_by_dag_scope``, ``…_scope``
and ``…_owner``. In such an index the runs lie in *groups*, those that are equal in all that stands before that. A
filter leaves some of the groups; each is in order, so the newest of a list are among the newest of its groups. Groups
are few, since a DAG has few scopes, a cluster few nodes and a run one of six states: a list costs a handful of searches
for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cis.errors import PoisonRecordError, StaleVersionError, UsageError
from cis.model.scope_rules import allows, spans, written
from cis.model.states import RunState, check_run_arrow
from cis.store.records import Page, RunChange, RunFilter, RunHead, RunRecord, TaskRecord
from cis.store.sql.queue import HELD, WAKE
from cis.store.sql.rows import MAX_NUMBER, RUN, params_of, places_of, read, read_all, run_of
from cis.store.sql.tasks import INSERT_TASK, TELL_CANCELLED, task_values

if TYPE_CHECKING:
    from cis.model.dag import Json
    from cis.store.sql.database import Database, Row

Group = tuple[str | bytes, ...]
Place = tuple[int, str]
"""Where a run stands among all: when it was accepted here, by the number of an event, and its id."""

_BY_DAG_SCOPE = ("dag_id", "scope_type", "scope_id", "owner_node", "status")
_BY_SCOPE = _BY_DAG_SCOPE[1:]
_BY_OWNER = _BY_DAG_SCOPE[3:]


def newest_runs(db: Database, where: RunFilter, *, limit: int, before: Place | None) -> list[Place]:
    """Return the places of the newest runs that *where* leaves, newest first; older than *before* if that is given.

    These are several questions, to be asked in one snapshot.
    """
    wanted = _wanted(where)
    if where.scopes is not None:
        return _allowed(db, where, wanted, limit=limit, before=before)
    if not wanted or wanted.keys() == {"dag_id"}:  # these two have an order of their own
        return _places(db, wanted, limit=limit, before=before)
    index = _BY_DAG_SCOPE if where.dag_id is not None else _BY_SCOPE if where.scope is not None else _BY_OWNER
    found: list[Place] = []
    for group in _groups(db, index, wanted):
        found += _places(db, dict(zip(index, group, strict=True)), limit=limit, before=before)
    return sorted(found, reverse=True)[:limit]


def _allowed(
    db: Database, where: RunFilter, wanted: Mapping[str, str | bytes], *, limit: int, before: Place | None
) -> list[Place]:
    """Return what *where* leaves for somebody who may not see all scopes."""
    index = _BY_SCOPE if where.dag_id is None else _BY_DAG_SCOPE
    if where.scope is not None:
        seen = [(where.scope.type, where.scope.id)] if allows(where.scopes, where.scope) else []
    else:
        seen = [span for pattern in where.scopes or () for span in spans(pattern)]
    found: set[Place] = set()
    for kind, owner in dict.fromkeys(seen):
        narrowed = {**wanted, "scope_type": str(kind)}
        if not owner.endswith("*"):
            narrowed["scope_id"] = owner
        for group in _groups(db, index, narrowed, beginning=owner.removesuffix("*").encode()):
            found.update(_places(db, dict(zip(index, group, strict=True)), limit=limit, before=before))
    return sorted(found, reverse=True)[:limit]


def _wanted(where: RunFilter) -> dict[str, str | bytes]:
    wanted: dict[str, str | bytes] = {}
    if where.dag_id is not None:
        wanted["dag_id"] = where.dag_id
    if where.scope is not None:
        wanted |= {"scope_type": str(where.scope.type), "scope_id": where.scope.id}
    if where.node is not None:
        wanted["owner_node"] = where.node
    if where.status is not None:
        wanted["status"] = str(where.status)
    return wanted


def _groups(
    db: Database,
    index: tuple[str, ...],
    wanted: Mapping[str, str | bytes],
    group: Group = (),
    *,
    beginning: bytes = b"",
) -> Iterator[Group]:
    """Go through the groups of an index that have the wanted values, from one to the next, past the runs between.

    With a *beginning*, only those whose ``scope_id`` begins so.
    """
    if len(group) == len(index):
        yield group
        return
    column = index[len(group)]
    if column in wanted:
        yield from _groups(db, index, wanted, (*group, wanted[column]), beginning=beginning)
        return
    # As bytes: one with invalid UTF-8 must not hide the groups behind it.
    equal = _equal(index[: len(group)])
    start = beginning if column == "scope_id" else b""
    conditions = [*equal, f"{column} >= CAST(? AS TEXT)"] if start else equal
    sql = f"SELECT CAST({column} AS BLOB) FROM dag_runs {_where(conditions)} ORDER BY {column} LIMIT 1"  # noqa: S608
    after = [*equal, f"{column} > CAST(? AS TEXT)"]
    rest = f"SELECT CAST({column} AS BLOB) FROM dag_runs {_where(after)} ORDER BY {column} LIMIT 1"  # noqa: S608
    found = db.rows(sql, (*group, start) if start else group)
    while found and found[0][0].startswith(start):
        ((value,),) = found
        yield from _groups(db, index, wanted, (*group, value), beginning=beginning)
        found = db.rows(rest, (*group, value))


def _places(db: Database, group: Mapping[str, str | bytes], *, limit: int, before: Place | None) -> list[Place]:
    conditions = _equal(tuple(group))
    if before is not None:
        conditions.append("(accepted, run_id) < (?, ?)")
    newest = "ORDER BY accepted DESC, run_id DESC LIMIT ?"
    sql = f"SELECT accepted, run_id FROM dag_runs {_where(conditions)} {newest}"  # noqa: S608 - bound
    return [(accepted, run_id) for accepted, run_id in db.rows(sql, (*group.values(), *(before or ()), limit))]


def _equal(columns: tuple[str, ...]) -> list[str]:
    return [f"{column} = CAST(? AS TEXT)" for column in columns]


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


_INSERT = (
    f"INSERT INTO dag_runs ({RUN}, accepted) VALUES ({places_of(RUN)},"  # noqa: S608 - constants
    " (SELECT coalesce(max(seq), 0) + 1 FROM events))"
)
_ONE = f"SELECT {RUN} FROM dag_runs WHERE run_id = ?"  # noqa: S608 - constants
_SOME = f"SELECT {RUN} FROM dag_runs WHERE run_id IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
_BEGINNING = f"SELECT {RUN} FROM dag_runs WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?"  # noqa: S608 - constants
_BY_KEY = f"SELECT {RUN} FROM dag_runs WHERE idempotency_key = ?"  # noqa: S608 - constants
_LATEST = f"SELECT {RUN} FROM dag_runs WHERE dag_id = ? ORDER BY accepted DESC, run_id DESC LIMIT 1"  # noqa: S608 - constants
_CHILDREN = f"SELECT {RUN} FROM dag_runs WHERE parent_run_id = ? ORDER BY run_id"  # noqa: S608 - constants
_ELSEWHERE = " UNION ALL ".join(
    f"SELECT {RUN} FROM dag_runs WHERE worker_id = ?1 AND status IN ('pending', 'running', 'paused')"  # noqa: S608
    f" AND target_node {side} ?2"  # two ranges of the index; "!=" would walk all that lies between them
    for side in "<>"
)
_UNFINISHED = "SELECT status, count(*) FROM dag_runs WHERE status IN ('pending', 'running', 'paused') GROUP BY status"
_HEADS = (
    "SELECT run_id, version, status NOT IN ('pending', 'running', 'paused') FROM dag_runs"
    " WHERE run_id IN (SELECT value FROM json_each(?))"
)
_HEAD = "SELECT run_id, version, status NOT IN ('pending', 'running', 'paused') FROM dag_runs WHERE run_id = ?"
_CHANGE = (
    "UPDATE dag_runs SET version = version + 1, status = coalesce(?, status),"
    " started_at_us = coalesce(?, started_at_us), finished_at_us = coalesce(?, finished_at_us),"
    " cancel_requested = coalesce(?, cancel_requested), error = coalesce(?, error),"
    " owner_node = coalesce(?, owner_node), delivery = coalesce(?, delivery) WHERE run_id = ? AND version = ?"
)
_ADD_PARAMS = "INSERT INTO run_params (run_id, params) VALUES (?, ?)"
_PARAMS = "SELECT run_id, params FROM run_params WHERE run_id = ?"
_GROW = "INSERT INTO run_trees VALUES (?, 1) ON CONFLICT (tree) DO UPDATE SET runs = run_trees.runs + 1 RETURNING runs"
_LOSE = (
    "UPDATE task_executions SET status = 'lost', finished_at_us = ?, error = ? WHERE run_id = ? AND status = 'running'"
)
# A version that cannot be read may be the highest that there is.
_NEXT_VERSION = f"version = max(0, min(version, {MAX_NUMBER} - 1)) + 1"
_DROP_TASKS = (
    f"UPDATE run_tasks SET status = 'cancelled', {_NEXT_VERSION}, finished_at_us = ?"  # noqa: S608 - constants
    " WHERE run_id = ? AND status NOT IN ('completed', 'failed', 'skipped', 'cancelled')"
)
_END = (
    f"UPDATE dag_runs SET status = ?, {_NEXT_VERSION}, finished_at_us = ?, error = ?"  # noqa: S608 - constants
    " WHERE run_id = ? AND status NOT IN ('completed', 'failed', 'cancelled')"
)
_PARENT_HELD = "SELECT 1 FROM worker_queue WHERE run_id = (SELECT parent_run_id FROM dag_runs WHERE run_id = ?)"
_WAKE_PARENT = (
    "UPDATE worker_queue SET status = 'queued', due_at_us = NULL WHERE status = 'parked'"
    " AND run_id = (SELECT parent_run_id FROM dag_runs WHERE run_id = ?)"
)


class RunRows:
    """The runs' part of the store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, run: RunRecord, tasks: Iterable[TaskRecord], *, params: Mapping[str, Json] | None = None) -> None:
        """Store a new run with its tasks, and the values of its parameters."""
        self._db.lock("run", run.run_id)
        self._db.write(
            _INSERT,
            (
                run.run_id,
                run.dag_id,
                run.definition_id,
                str(run.status),
                run.version,
                str(run.scope.type),
                run.scope.id,
                str(run.scope_source),
                run.worker_id,
                run.node_id,
                run.owner_node,
                run.target_node,
                int(run.priority),
                str(run.delivery),
                run.task_count,
                run.created_at_us,
                run.started_at_us,
                run.finished_at_us,
                int(run.cancel_requested),
                run.error,
                run.idempotency_key,
                run.rerun_of,
                run.parent_run_id,
                run.parent_task_id,
                run.depth,
                written(run.scopes),
                run.tree,
                ",".join(run.above) or None,
                int(run.errexit),
                None if run.trigger is None else json.dumps(run.trigger._asdict(), ensure_ascii=False),
                int(run.handled),
            ),
        )
        self._db.write_many(INSERT_TASK, map(task_values, tasks))
        if params:
            self._db.write(_ADD_PARAMS, (run.run_id, json.dumps(dict(params), ensure_ascii=False, sort_keys=True)))

    def params(self, run_id: str) -> Mapping[str, Json]:
        """Return the values of a run's parameters; most runs have none."""
        row = self._db.row(_PARAMS, (run_id,))
        return {} if row is None else read("the parameters of run", params_of, row)

    def grow_tree(self, tree: str) -> int:
        """Count one more run of a tree; return how many there are below its root now."""
        row = self._db.row(_GROW, (tree,))
        return int(row[0]) if row else 0

    def get(self, run_id: str) -> RunRecord | None:
        """Return a run, or None."""
        row = self._db.row(_ONE, (run_id,))
        return None if row is None else read("run", run_of, row)

    def beginning(self, text: str, *, limit: int) -> Sequence[RunRecord]:
        """Return runs whose id begins so, by id."""
        return read_all("run", run_of, self._db.rows(_BEGINNING, (text, text + chr(sys.maxunicode), limit)))

    def by_key(self, idempotency_key: str) -> RunRecord | None:
        """Return the run that an idempotency key made."""
        self._db.lock("key", idempotency_key)
        row = self._db.row(_BY_KEY, (idempotency_key,))
        return None if row is None else read("run", run_of, row)

    def latest(self, dag_id: str) -> RunRecord | None:
        """Return the run of a DAG that was accepted last, whatever the clock said then."""
        row = self._db.row(_LATEST, (dag_id,))
        return None if row is None else read("run", run_of, row)

    def page(self, where: RunFilter, *, limit: int, cursor: str | None = None) -> Page[RunRecord]:
        """Return runs, those first that were accepted last."""
        before = None if cursor is None else _read_cursor(cursor)
        with self._db.snapshot():
            places = newest_runs(self._db, where, limit=limit + 1, before=before)
            rows = self._rows_of([run_id for _, run_id in places[:limit]])
        next_cursor = _cursor(places[limit - 1]) if len(places) > limit else None
        return Page(tuple(read_all("run", run_of, rows)), next_cursor)

    def _rows_of(self, run_ids: Sequence[str]) -> list[Row]:
        """Return the rows of these runs, in their order, without those that have invalid UTF-8."""
        order = {run_id: number for number, run_id in enumerate(run_ids)}
        try:
            rows = self._db.all_rows("a run", _SOME, (json.dumps(run_ids),))
            return sorted(rows, key=lambda row: order[row[0]])
        except PoisonRecordError:
            return [row for run_id in run_ids for row in self._db.rows(_ONE, (run_id,))]

    def unfinished_counts(self) -> Mapping[RunState, int]:
        """Return how many runs are in each state that is not final."""
        return {RunState(status): count for status, count in self._db.rows(_UNFINISHED)}

    def heads(self, run_ids: Sequence[str]) -> Mapping[str, RunHead]:
        """Return what says whether runs have changed or are over."""
        if len(run_ids) == 1:  # as it is asked most often, and a third of what a list costs
            rows = self._db.rows(_HEAD, run_ids)
        else:
            rows = self._db.rows(_HEADS, (json.dumps(list(run_ids)),))
        return {run_id: RunHead(version, bool(is_over)) for run_id, version, is_over in rows}

    def unfinished_elsewhere(self, worker_id: str, target_node: str) -> RunRecord | None:
        """Return an unfinished run that asks for the worker on another node by name."""
        self._db.lock("worker", worker_id)
        found = read_all("run", run_of, self._db.rows(f"{_ELSEWHERE} LIMIT 10", (worker_id, target_node)))
        return found[0] if found else None

    def children(self, parent_run_id: str) -> Sequence[RunRecord]:
        """Return the runs of a run's DAG tasks."""
        return read_all("run", run_of, self._db.rows(_CHILDREN, (parent_run_id,)))

    def change(self, run: RunRecord, change: RunChange) -> RunRecord:
        """Apply *change* to the run as it was read, and return it as it is now."""
        if change.status is not None and change.status is not run.status:
            check_run_arrow(run.run_id, run.status, change.status)
        cancel = None if change.cancel_requested is None else int(change.cancel_requested)
        cancel = 2 if change.cancelled_again else cancel
        changed = self._db.write(
            _CHANGE,
            (
                None if change.status is None else str(change.status),
                change.started_at_us,
                change.finished_at_us,
                cancel,
                change.error,
                change.owner_node,
                None if change.delivery is None else str(change.delivery),
                run.run_id,
                run.version,
            ),
        )
        if changed != 1:
            raise StaleVersionError(f"run {run.run_id}", run.version)
        if run.parent_run_id is not None and change.status is not None and change.status.final:
            self._db.hold(HELD, (run.parent_run_id,))
            self._db.write(WAKE, (run.parent_run_id,))
        given = {name: value for name, value in change._asdict().items() if value is not None}
        return run._replace(version=run.version + 1, **given)

    def set_aside(self, run_id: str, *, error: str, now_us: int, status: RunState = RunState.FAILED) -> bool:
        """End a run without reading its rows, which perhaps cannot be read."""
        self._db.write(_LOSE, (now_us, error, run_id))
        self._db.write(TELL_CANCELLED, (now_us, run_id))
        self._db.write(_DROP_TASKS, (now_us, run_id))
        self._db.write("DELETE FROM worker_queue WHERE run_id = ?", (run_id,))
        self._db.hold(_PARENT_HELD, (run_id,))
        self._db.write(_WAKE_PARENT, (run_id,))
        return self._db.write(_END, (str(status), now_us, error, run_id)) == 1


def _cursor(place: Place) -> str:
    import base64  # noqa: PLC0415 - most lists have one page

    accepted, run_id = place
    return base64.urlsafe_b64encode(f"{accepted} {run_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> Place:
    import base64  # noqa: PLC0415 - as above

    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        accepted, _, run_id = text.rpartition(" ")
        return min(int(accepted), MAX_NUMBER), run_id
    except ValueError as error:  # also what binascii and UTF-8 say
        raise UsageError(f"cursor {cursor[:80]!r} did not come from a page of runs; begin without one") from error
