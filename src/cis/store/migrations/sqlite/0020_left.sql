-- Processes that a task with `leave` was allowed to leave running, by number and start.

CREATE TABLE left_processes (
    run_id      TEXT    NOT NULL,
    task_no     INTEGER NOT NULL,
    task_id     TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    pid_started TEXT    NOT NULL,
    PRIMARY KEY (run_id, task_no, pid)
) STRICT, WITHOUT ROWID;
