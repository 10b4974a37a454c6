-- How many bytes of a run were written that another node has told of it: logs and attempts.
ALTER TABLE remote_runs ADD COLUMN told_bytes INTEGER NOT NULL DEFAULT 0;
