"""The store in one SQLite file: ``store.open_sqlite`` opens it.

Each other module has the statements of a few tables; ``connection`` has the transactions, ``rows`` makes records of
rows.
"""
