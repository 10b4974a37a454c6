"""The store: its port, its records, its databases.

``opening.open_store`` opens one from its address. ``port.Store`` is what the engine sees, in parts by concept:
``run_port`` (DAGs and runs), ``queue_port`` (queue, workers, events), ``cluster_port`` (other nodes), ``upkeep_port``
(all else). ``records`` and ``cluster`` are what it hands out. ``sql`` has the statements, ``sqlite`` and
``postgres`` are adapters, ``migrations`` the schema.
"""

from cis.store.opening import Shared, adapter_of, is_server, kept_node_id, open_bells, open_store, restoring, shown

__all__ = ["Shared", "adapter_of", "is_server", "kept_node_id", "open_bells", "open_store", "restoring", "shown"]
