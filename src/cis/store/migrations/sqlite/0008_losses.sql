-- Tasks whose worker died while they ran: how often in a row while nothing else ran, and for how long the next attempt runs apart
-- from the others. A row goes when an attempt ends by itself; a task that never lost its worker has none.

CREATE TABLE task_losses (
    run_id   TEXT    NOT NULL,
    task_no  INTEGER NOT NULL,
    losses   INTEGER NOT NULL,
    alone_us INTEGER NOT NULL,
    PRIMARY KEY (run_id, task_no)
) STRICT, WITHOUT ROWID;
