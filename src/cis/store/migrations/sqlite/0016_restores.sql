-- Which backups this database was restored from, and which of its runs may have gone on, or ended, since then.

CREATE TABLE restores (
    restored_at_us INTEGER PRIMARY KEY,
    known_until_us INTEGER NOT NULL
) STRICT;

CREATE TABLE restored_runs (
    run_id TEXT PRIMARY KEY REFERENCES dag_runs
) STRICT, WITHOUT ROWID;
