-- Whether the text commands of a run are read by `/bin/sh -e`. Runs that were accepted before keep `/bin/sh`.
ALTER TABLE dag_runs ADD COLUMN errexit INTEGER NOT NULL DEFAULT 0;

-- Whether the node that executes a run, of an earlier program, reads them with `/bin/sh` all the same.
ALTER TABLE remote_runs ADD COLUMN ignores_errexit INTEGER NOT NULL DEFAULT 0;
