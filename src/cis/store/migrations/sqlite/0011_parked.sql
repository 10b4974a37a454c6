-- Runs that only wait may be let go of by their worker: parked, they come back to the queue when they are due, or when somebody
-- says so (the end of a child run, a resume).

ALTER TABLE worker_queue ADD COLUMN due_at_us INTEGER;
CREATE INDEX worker_queue_due ON worker_queue (node_id, due_at_us) WHERE status = 'parked' AND due_at_us IS NOT NULL;
