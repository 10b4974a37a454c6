-- Runs are listed by when they were accepted here, and not by their ids, which sort by what some clock said: it may have been set
-- since, or be another node's. The number is that of the event that comes next. Runs of before this have 0, and are in the order of their ids.

ALTER TABLE dag_runs ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
DROP INDEX dag_runs_by_dag;
DROP INDEX dag_runs_by_dag_scope;
DROP INDEX dag_runs_by_scope;
DROP INDEX dag_runs_by_owner;
CREATE INDEX dag_runs_by_acceptance ON dag_runs (accepted, run_id);
CREATE INDEX dag_runs_by_dag        ON dag_runs (dag_id, accepted, run_id);
CREATE INDEX dag_runs_by_dag_scope  ON dag_runs (dag_id, scope_type, scope_id, owner_node, status, accepted, run_id);
CREATE INDEX dag_runs_by_scope      ON dag_runs (scope_type, scope_id, owner_node, status, accepted, run_id);
CREATE INDEX dag_runs_by_owner      ON dag_runs (owner_node, status, accepted, run_id);
