"""``cis audit``: who did what, when, from where."""

from __future__ import annotations

import argparse

from cis.cli.context import from_environment
from cis.cli.output import local_time, print_json, print_table
from cis.engine.timestamps import rfc3339
from cis.errors import UsageError

MAX_LIMIT = 10_000


def add(group: argparse.ArgumentParser, _name: str) -> None:
    """Add the options of this command."""
    group.add_argument("--limit", type=int, default=50, metavar="N", help="at most this many (default 50)")
    group.add_argument("--json", action="store_true", help="one JSON document")
    group.set_defaults(call=_audit)


def _audit(options: argparse.Namespace) -> None:
    if not 1 <= options.limit <= MAX_LIMIT:
        raise UsageError(f"--limit must be from 1 to {MAX_LIMIT}, not {options.limit}")
    with from_environment().store() as store:
        entries = store.audit(limit=options.limit)
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
    rows = [(local_time(rfc3339(one.at_us)), one.actor, one.action, one.subject, one.source) for one in entries]
    print_table(("at", "actor", "action", "subject", "source"), rows)
