"""Which runs a list shows: found in indexes alone, however many runs there are, and whatever is filtered by.

An index for each combination of filters would cost every change of a run too much. Instead there are three, and each
begins with what is asked for and ends with the place in the order of acceptance: ``dag_runs_by_dag_scope``, ``…_scope`` and
``…_owner``. In such an index the runs lie in *groups*, those that are equal in all that stands before that. A filter
leaves some of the groups; each is in order, so the newest of a list are among the newest of its groups. Groups are few,
since a DAG has few scopes, a cluster few nodes and a run one of six states: a list costs a handful of searches for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cis.model.scope_patterns import allows, spans
from cis.store.records import RunFilter
from cis.store.sqlite.connection import Database

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
    # As bytes: a text that is none must not hide the groups behind it.
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
