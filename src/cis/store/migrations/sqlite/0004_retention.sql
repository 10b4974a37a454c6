-- What the pruner asks: the runs of a DAG that are over, by their end, and whether a version of a document is in use.
-- Runs that are the tasks of others go with them, so they are in no list of their own.

CREATE INDEX dag_runs_ended         ON dag_runs (dag_id, finished_at_us, run_id, parent_run_id)
    WHERE finished_at_us IS NOT NULL AND parent_run_id IS NULL;
CREATE INDEX dag_runs_by_definition ON dag_runs (definition_id);
