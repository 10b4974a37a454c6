-- What this node has asked of the nodes that grant leases. A grant counts as the answer to one of these, and its lease
-- from when that was asked, by a clock that nobody sets and that goes on while the machine sleeps.

CREATE TABLE lease_asks (
    run_id          TEXT    NOT NULL,   -- of a run that may not be here, so it refers to no row
    nonce           TEXT    NOT NULL,
    asked_at_us     INTEGER NOT NULL,
    asked_uptime_us INTEGER NOT NULL,
    boot_id         TEXT    NOT NULL,
    PRIMARY KEY (run_id, nonce)
) STRICT, WITHOUT ROWID;

CREATE INDEX lease_asks_by_time ON lease_asks (asked_at_us);

ALTER TABLE remote_runs ADD COLUMN lease_uptime_us INTEGER;

-- What stands on offer is offered once more, under another message id: who claims it has to know that a grant will say
-- which claim it answers.
UPDATE outbox SET message_id = message_id || '.again', due_at_us = 0 WHERE kind = 'io.cis.dag.execute' AND node_id = '';
