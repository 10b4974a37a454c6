-- How many runs of a scope have a place is asked for where its table says how many may (max_runs): the index of the queue knows
-- which runs are tasks of others, and so need none.

DROP INDEX worker_queue_by_worker;
CREATE INDEX worker_queue_by_worker
    ON worker_queue (node_id, status, worker_id, priority DESC, queue_id, created_at_us, below);
