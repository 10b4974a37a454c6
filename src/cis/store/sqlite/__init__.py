"""The store in one SQLite file: ``store.open_sqlite`` opens it.

``connection`` has the transactions, ``file`` and ``kept`` what concerns the file, ``migrate`` the schema. The statements
are in ``cis.store.sql``.
"""
