"""What this node asks others, each time with a new nonce: an answer counts when it names one that is remembered."""

from __future__ import annotations

from cis.engine.site import Site
from cis.store.cluster import LeaseAsk
from cis.store.port import Store


def remember_ask(store: Store, run_id: str, *, keep: int, site: Site) -> LeaseAsk:
    """Remember a new question about a run, and when it was asked; of those about it, the newest *keep* are known."""
    ask = LeaseAsk(
        run_id=run_id,
        nonce=site.new_id(),
        asked_at_us=site.clock_us(),
        asked_uptime_us=site.uptime_us(),
        boot_id=site.boot_id,
    )
    store.put_ask(ask, keep=keep)
    return ask
