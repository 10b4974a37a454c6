-- Tasks that a run gets while it goes on: the number of the task that one is a part of, and what it was given, as JSON.
ALTER TABLE run_tasks ADD COLUMN part_of INTEGER;
ALTER TABLE run_tasks ADD COLUMN given TEXT;

-- Whether a run has handlers, so that a cancel is its worker's to carry out once it has begun.
ALTER TABLE dag_runs ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
