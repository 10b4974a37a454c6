"""Who types a command, written into the audit log with what it did."""

from __future__ import annotations

import os
import pwd

from cis.node.clock import now_us
from cis.store.port import Store
from cis.store.records import AuditRecord

SOURCE = "cli"


def append_audit(store: Store, action: str, subject: str) -> None:
    """Write down, in the transaction of the action itself, that this user did it."""
    entry = AuditRecord(at_us=now_us(), actor=_actor(), action=action, subject=subject, source=SOURCE)
    store.append_audit(entry)


def _actor() -> str:
    """Return the user of the operating system, by name where it has one; never what an environment variable claims."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
        return f"user:{os.fsencode(name).decode(errors='backslashreplace')}"
    except KeyError:
        return f"user:{uid}"
