-- Each task that starts or ends is written at once, and its process waits for that: these two cost a page each time, and nothing
-- needs them. What a worker left running is looked for in its runs that are not over (store/sqlite/tasks.py). The newest
-- event is always kept, so the one after it gets the next number without SQLite's keeping count.

DROP INDEX task_executions_running;

CREATE TABLE numbered_events (
    seq       INTEGER PRIMARY KEY,
    at_us     INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    status    TEXT    NOT NULL,
    run_id    TEXT,
    dag_id    TEXT,
    task_id   TEXT,
    worker_id TEXT,
    data      TEXT
) STRICT;
INSERT INTO numbered_events SELECT seq, at_us, kind, status, run_id, dag_id, task_id, worker_id, data FROM events;
DROP TABLE events;
ALTER TABLE numbered_events RENAME TO events;
