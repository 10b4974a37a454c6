"""``cis audit``: who did what, when, from where."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.cli.output import print_json
from cis.cli.table import print_table, time_cell
from cis.engine.times import rfc3339
from cis.errors import UsageError
from cis.model.durations import parse_duration
from cis.node.clock import now_us
from cis.store.access_records import AuditFilter

MAX_LIMIT = 10_000


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the options of this command."""
    group.add_argument("--limit", type=int, default=50, metavar="N", help="at most this many (default 50)")
    group.add_argument("--since", metavar="AGE", help="only what is no older than this, as 12h or 7d")
    group.add_argument("--actor", metavar="WHO", help="only what this one did, as user:alice")
    group.add_argument("--action", metavar="WHAT", help="only this, as dag.execute, or all of a kind, as refused")
    group.add_argument("--json", action="store_true", help="one JSON document")
    group.set_defaults(call=_audit)


def _audit(options: argparse.Namespace) -> None:
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    since_us = None if options.since is None else max(0, now_us() - _age_us(options.since))
    where = AuditFilter(since_us=since_us, actor=options.actor, action=options.action)
    with from_environment().store() as store:
        entries = store.audit.page(where, limit=options.limit)
    if options.json:
        print_json(
            [
                {
                    "seq": entry.seq,
                    "at": rfc3339(entry.at_us),
                    "actor": entry.actor,
                    "action": entry.action,
                    "subject": entry.subject,
                    "source": entry.source,
                }
                for entry in entries
            ]
        )
        return
    rows = [(time_cell(rfc3339(one.at_us)), one.actor, one.action, one.subject, one.source) for one in entries]
    print_table(("at", "actor", "action", "subject", "source"), rows)


def _age_us(text: str) -> int:
    try:
        return int(parse_duration(text) * 1_000_000)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error
