-- What a node keeps of others: whom it trusts, what it has to send, what became of runs elsewhere, what the room said.

CREATE TABLE peers (
    node_id        TEXT    PRIMARY KEY,
    public_key     TEXT    NOT NULL UNIQUE,
    may            TEXT    NOT NULL,
    trusted_at_us  INTEGER NOT NULL,
    url            TEXT,
    matrix_user    TEXT,
    contact_at_us  INTEGER,
    clock_ahead_us INTEGER,
    fault          TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    message_id    TEXT    PRIMARY KEY,   -- sorts by creation
    kind          TEXT    NOT NULL,
    run_id        TEXT    NOT NULL,
    node_id       TEXT    NOT NULL,      -- empty: for everyone
    route         TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    due_at_us     INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    uncertain     INTEGER NOT NULL DEFAULT 0,
    fault         TEXT,
    fields        TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_runs (
    run_id         TEXT    PRIMARY KEY REFERENCES dag_runs,
    role           TEXT    NOT NULL,
    peer           TEXT    NOT NULL,
    epoch          INTEGER NOT NULL DEFAULT 0,
    lease_until_us INTEGER,
    control_seq    INTEGER NOT NULL DEFAULT 0,
    heard_version  INTEGER NOT NULL DEFAULT 0,
    open           INTEGER NOT NULL DEFAULT 1,
    lease_us       INTEGER NOT NULL DEFAULT 0,
    suspended_us   INTEGER,
    boot_id        TEXT    NOT NULL DEFAULT '',
    event_id       TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE withdrawals (
    run_id        TEXT    NOT NULL,      -- of a run that has not come, so it refers to no row
    sender        TEXT    NOT NULL,
    expires_at_us INTEGER NOT NULL,
    PRIMARY KEY (run_id, sender)
) STRICT, WITHOUT ROWID;

CREATE TABLE room_events (
    seq        INTEGER PRIMARY KEY,
    event_id   TEXT    NOT NULL UNIQUE,
    room_id    TEXT    NOT NULL,
    sender     TEXT    NOT NULL,
    type       TEXT    NOT NULL,
    sent_at_us INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    content    TEXT    NOT NULL
) STRICT;

CREATE TABLE room_cursors (
    room_id      TEXT    PRIMARY KEY,
    user_id      TEXT    NOT NULL,
    next_batch   TEXT    NOT NULL,
    synced_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE offers (
    run_id        TEXT    NOT NULL PRIMARY KEY,
    sender        TEXT    NOT NULL,
    event_id      TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    state         TEXT    NOT NULL,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    claim_at_us   INTEGER NOT NULL,
    content       TEXT    NOT NULL       -- tens of kilobytes: with a rowid, since the key's tree would hold it else
) STRICT;

CREATE TABLE chat_threads (
    run_id   TEXT PRIMARY KEY,
    room_id  TEXT NOT NULL,
    event_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One index for each question. Those of the outbox hold due_at_us, so that what is not due is passed over in them.
CREATE UNIQUE INDEX peers_by_user   ON peers (matrix_user) WHERE matrix_user IS NOT NULL;
CREATE INDEX outbox_by_node         ON outbox (node_id, route, priority DESC, message_id, due_at_us);
CREATE INDEX outbox_by_route        ON outbox (route, priority DESC, message_id, due_at_us);
CREATE INDEX outbox_by_time         ON outbox (due_at_us, route, node_id);
CREATE INDEX outbox_by_run          ON outbox (run_id, message_id);
CREATE INDEX remote_runs_open       ON remote_runs (role, run_id) WHERE open = 1;
CREATE INDEX room_events_new        ON room_events (seq) WHERE state = 'new';
CREATE INDEX room_events_settled    ON room_events (seq, state) WHERE state != 'new';
CREATE INDEX offers_by_state        ON offers (state, priority DESC, created_at_us, run_id);
CREATE INDEX offers_by_expiry       ON offers (expires_at_us);
