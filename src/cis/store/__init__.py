"""The store: its port, its records, its databases.

``opening.open_store`` opens one from its address. ``port.Store`` is what the engine sees, in parts by concept:
``run_port`` (DAGs and runs), ``queue_port`` (queue, workers, events), ``cluster_port`` (other nodes), ``upkeep_port``
(all else). ``records`` and ``cluster`` are what it hands out. ``sql`` has the statements, ``sqlite`` is an adapter,
``migrations`` the schema.
"""

from cis.store.opening import adapter_of, kept_node_id, open_store, restoring

__all__ = ["adapter_of", "kept_node_id", "open_store", "restoring"]
