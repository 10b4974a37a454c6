-- The values of a run's parameters, as JSON; a run of a DAG without any has no row.
CREATE TABLE run_params (
    run_id TEXT COLLATE "C" PRIMARY KEY REFERENCES dag_runs,
    params TEXT COLLATE "C" NOT NULL
);

-- What the end of a task counts as, beyond its status: `allowed` of a failure, and why it was skipped.
ALTER TABLE run_tasks ADD COLUMN outcome TEXT COLLATE "C";
