"""What ``!dag`` answers: plain text, short enough for a chat."""

from __future__ import annotations

from cis.engine.lookup import run_of
from cis.engine.observe.logs import last_attempts
from cis.engine.observe.views import CLOCK_WARNING_S, read_status
from cis.model.ids import counted
from cis.model.scope_rules import Patterns, allows
from cis.store.cluster_port import Peers
from cis.store.port import Store
from cis.store.records import RunFilter
from cis.store.run_port import Definitions

MAX_ROWS = 20
MAX_LINES = 30
PAGE = 1000
HELP = """\
!dag list — stored DAGs
!dag run DAG — run a stored DAG
!dag status [DAG] — latest runs, or one DAG's
!dag logs DAG [TASK] — the end of what its latest run wrote
!dag cancel DAG — end its latest run
!dag workers — workers of this node
!dag nodes — this node and those it trusts
Each with --node NODE: that node alone answers, and runs what it is to run itself."""


def listing(definitions: Definitions, *, scopes: Patterns | None = None) -> str:
    """Return the stored DAGs that may be seen, a line each."""
    page = definitions.page(limit=MAX_ROWS, saved_only=True, scopes=scopes)
    found = list(page.items)
    while page.next_cursor and len(found) < MAX_ROWS:
        page = definitions.page(limit=PAGE, cursor=page.next_cursor, saved_only=True, scopes=scopes)
        found += page.items
    lines = [
        f"{one.dag_id} — {counted(one.task_count, 'task')}, scope {one.scope}"
        + (f" — {one.description}" if one.description else "")
        for one in found[:MAX_ROWS]
    ]
    if page.next_cursor or len(found) > MAX_ROWS:
        lines.append("and more: 'cis dag definitions'")
    return "\n".join(lines) or "nothing is stored here; 'cis dag save FILE' stores a DAG"


def status(store: Store, dag_id: str | None, *, scopes: Patterns | None = None) -> str:
    """Return the latest runs, or how the latest run of one DAG goes."""
    if dag_id is None:
        runs = store.runs.page(RunFilter(scopes=scopes), limit=10).items
        return (
            "\n".join(f"{run.dag_id} {run.status} on {run.owner_node} — {run.run_id}" for run in runs) or "no runs yet"
        )
    found = read_status(store, dag_id, scopes=scopes)
    if not found["runs"]:
        return f"{dag_id} was never run here"
    run = found["runs"][0]
    counts: dict[str, int] = {}
    for task in run["tasks"]:
        counts[task["status"]] = counts.get(task["status"], 0) + 1
    lines = [f"{dag_id} {run['status']} on {run['owner_node']} — {run['run_id']}"]
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items()))
    lines += [f"running: {task['id']}" for task in run["tasks"] if task["status"] == "running"][:MAX_ROWS]
    lines += [f"failed: {task['id']}: {task['error'] or ''}" for task in run["tasks"] if task["status"] == "failed"][
        :MAX_ROWS
    ]
    if run["waiting"]:
        lines.append(run["waiting"]["message"])
    return "\n".join(lines)


def log_tail(store: Store, dag_id: str, task: str | None, *, scopes: Patterns | None = None) -> str:
    """Return the last lines of the latest run of a DAG, or of one task of it."""
    run = run_of(store, dag_id, scopes=scopes)
    attempts = last_attempts(store, run.run_id, task=task, scopes=None, at_most=5)
    lines = []
    for attempt in attempts:
        lines.append(f"{attempt.task_id}, attempt {attempt.attempt}: {attempt.status}")
        text = attempt.stdout_tail + attempt.stderr_tail
        lines += text.splitlines()[-(MAX_LINES // max(1, len(attempts))) :]
    return "\n".join(lines) or f"run {run.run_id} wrote nothing yet"


def workers(store: Store, node_id: str, *, scopes: Patterns | None = None) -> str:
    """Return the live workers of this node that may be seen."""
    found = [one for one in store.workers.all(node_id=node_id, live_only=True) if allows(scopes, one.scope)][:MAX_ROWS]
    return (
        "\n".join(f"{one.worker_id} {one.status} — {counted(one.runs_done, 'run')} done" for one in found)
        or "no worker lives"
    )


def nodes(peers: Peers, node_id: str, *, now_us: int) -> str:
    """Return this node and those it trusts."""
    lines = [f"{node_id} (this one)"]
    for peer in peers.all()[:MAX_ROWS]:
        seen = (
            "never heard"
            if peer.contact_at_us is None
            else f"heard {max(0, now_us - peer.contact_at_us) // 1_000_000} s ago"
        )
        clock = abs(peer.clock_ahead_us or 0) // 1_000_000
        late = f", its clock is off by {clock} s" if clock > CLOCK_WARNING_S else ""
        lines.append(f"{peer.node_id} — {seen}{late}" + (f" — {peer.fault}" if peer.fault else ""))
    return "\n".join(lines)
