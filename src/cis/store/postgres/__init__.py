"""The store in PostgreSQL, for nodes that share one: ``cis.store.open_store`` opens it from its address.

``connection`` has the transactions, ``dialect`` what PostgreSQL says otherwise than SQLite, ``migrate`` the schema,
``parts`` what is kept in another way. The statements are in ``cis.store.sql``.
"""
