-- Whether somebody has asked for a task alone to be cancelled; its worker does so.
ALTER TABLE run_tasks ADD COLUMN cancel_requested BIGINT NOT NULL DEFAULT 0;
CREATE INDEX run_tasks_to_cancel ON run_tasks (run_id) WHERE cancel_requested = 1;
