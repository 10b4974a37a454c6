-- Times are microseconds since 1970-01-01 UTC. Priorities are numbers (low 10 … critical 40).
-- What may be long comes last in a row: SQLite reads a row from its front, and a long one lies in several pages.

CREATE TABLE dag_definitions (
    definition_id INTEGER PRIMARY KEY,
    dag_id        TEXT    NOT NULL,
    sha256        TEXT    NOT NULL,
    scope_type    TEXT    NOT NULL DEFAULT 'global',
    scope_id      TEXT    NOT NULL DEFAULT '',
    target_node   TEXT,
    priority      INTEGER NOT NULL DEFAULT 20,
    description   TEXT    NOT NULL DEFAULT '',
    task_count    INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    saved_at_us   INTEGER,
    document      TEXT    NOT NULL,
    UNIQUE (dag_id, sha256)
) STRICT;

CREATE TABLE dag_runs (
    run_id           TEXT    PRIMARY KEY,   -- sorts by creation
    dag_id           TEXT    NOT NULL,
    definition_id    INTEGER NOT NULL REFERENCES dag_definitions,
    status           TEXT    NOT NULL,
    version          INTEGER NOT NULL,
    scope_type       TEXT    NOT NULL,
    scope_id         TEXT    NOT NULL,
    scope_source     TEXT    NOT NULL,
    worker_id        TEXT    NOT NULL,
    node_id          TEXT    NOT NULL,
    owner_node       TEXT    NOT NULL,
    target_node      TEXT,
    priority         INTEGER NOT NULL,
    delivery         TEXT    NOT NULL,
    task_count       INTEGER NOT NULL,
    created_at_us    INTEGER NOT NULL,
    started_at_us    INTEGER,
    finished_at_us   INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    error            TEXT,
    idempotency_key  TEXT,
    rerun_of         TEXT,
    parent_run_id    TEXT,
    parent_task_id   TEXT,
    depth            INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE run_tasks (
    run_id         TEXT    NOT NULL REFERENCES dag_runs,
    task_no        INTEGER NOT NULL,
    task_id        TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    failures       INTEGER NOT NULL,
    exit_code      INTEGER,
    started_at_us  INTEGER,
    finished_at_us INTEGER,
    blocked_by     TEXT,
    retry_at_us    INTEGER,
    child_run_id   TEXT,
    error          TEXT,
    outputs        TEXT,
    PRIMARY KEY (run_id, task_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_executions (
    run_id         TEXT    NOT NULL,
    task_no        INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    task_id        TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    worker_id      TEXT    NOT NULL,
    epoch          INTEGER NOT NULL,
    started_at_us  INTEGER NOT NULL,
    finished_at_us INTEGER,
    exit_code      INTEGER,
    pid            INTEGER,
    pid_started    TEXT,
    error          TEXT,
    stdout_bytes   INTEGER NOT NULL DEFAULT 0,
    stderr_bytes   INTEGER NOT NULL DEFAULT 0,
    stdout_tail    TEXT    NOT NULL DEFAULT '',
    stderr_tail    TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, task_no, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE worker_queue (
    queue_id      INTEGER PRIMARY KEY,
    node_id       TEXT    NOT NULL,
    worker_id     TEXT    NOT NULL,
    run_id        TEXT    NOT NULL UNIQUE REFERENCES dag_runs,
    status        TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    epoch         INTEGER NOT NULL DEFAULT 0,
    created_at_us INTEGER NOT NULL,
    dag_json      TEXT    NOT NULL
) STRICT;

CREATE TABLE workers (
    node_id         TEXT    NOT NULL,
    worker_id       TEXT    NOT NULL,
    scope_type      TEXT    NOT NULL,
    scope_id        TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    pid             INTEGER NOT NULL,
    pid_started     TEXT,
    epoch           INTEGER NOT NULL,
    slots           INTEGER NOT NULL,
    started_at_us   INTEGER NOT NULL,
    heartbeat_at_us INTEGER NOT NULL,
    lease_until_us  INTEGER NOT NULL,
    runs_done       INTEGER NOT NULL DEFAULT 0,
    current_run     TEXT,
    PRIMARY KEY (node_id, worker_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us     INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    status    TEXT    NOT NULL,
    run_id    TEXT,
    dag_id    TEXT,
    task_id   TEXT,
    worker_id TEXT,
    data      TEXT
) STRICT;

CREATE TABLE api_tokens (
    name          TEXT    PRIMARY KEY,
    sha256        TEXT    NOT NULL UNIQUE,
    may           TEXT    NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us   INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    source  TEXT    NOT NULL
) STRICT;

-- One index for each question that a user or the machinery asks.
CREATE INDEX dag_definitions_by_dag    ON dag_definitions (dag_id);
CREATE UNIQUE INDEX dag_definitions_saved ON dag_definitions (dag_id) WHERE saved_at_us IS NOT NULL;
CREATE UNIQUE INDEX dag_runs_by_key    ON dag_runs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX dag_runs_by_dag           ON dag_runs (dag_id, run_id);
CREATE INDEX dag_runs_by_dag_status    ON dag_runs (dag_id, status, run_id);
CREATE INDEX dag_runs_by_status        ON dag_runs (status, run_id);
CREATE INDEX dag_runs_by_scope         ON dag_runs (scope_type, scope_id, run_id);
CREATE INDEX dag_runs_by_scope_status  ON dag_runs (scope_type, scope_id, status, run_id);
CREATE INDEX dag_runs_by_owner         ON dag_runs (owner_node, run_id);
CREATE INDEX dag_runs_by_parent        ON dag_runs (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX dag_runs_unfinished       ON dag_runs (worker_id, target_node)
    WHERE status IN ('pending', 'running', 'paused');
CREATE INDEX task_executions_running   ON task_executions (worker_id) WHERE status = 'running';
CREATE INDEX worker_queue_by_worker    ON worker_queue (node_id, status, worker_id, priority DESC, queue_id, created_at_us);
