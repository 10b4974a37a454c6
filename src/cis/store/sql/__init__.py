"""The parts of the store, each with the statements of a few tables, in the SQL that both databases understand.

``database.Database`` is what a part needs of a connection; each kind of store has one. ``rows`` and ``cluster_rows`` make
records of rows.
"""
