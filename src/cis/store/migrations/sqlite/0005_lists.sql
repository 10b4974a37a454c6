-- Lists of runs, by any combination of filters: each index has the runs in groups that are in order of creation
-- (store/sqlite/run_lists.py). Three take the place of five, of which three knew the status, as these do.

DROP INDEX dag_runs_by_dag_status;
DROP INDEX dag_runs_by_status;
DROP INDEX dag_runs_by_scope;
DROP INDEX dag_runs_by_scope_status;
DROP INDEX dag_runs_by_owner;
CREATE INDEX dag_runs_by_dag_scope ON dag_runs (dag_id, scope_type, scope_id, owner_node, status, run_id);
CREATE INDEX dag_runs_by_scope     ON dag_runs (scope_type, scope_id, owner_node, status, run_id);
CREATE INDEX dag_runs_by_owner     ON dag_runs (owner_node, status, run_id);
