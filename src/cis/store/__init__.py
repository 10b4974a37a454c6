"""The store: its port, its records, its databases.

``port.Store`` is what the engine sees, in parts (``queue_port``, ``cluster_port``, ``upkeep_port``); ``records`` and
``cluster`` are what it hands out. ``sqlite`` is an adapter, ``migrations`` the schema.
"""
