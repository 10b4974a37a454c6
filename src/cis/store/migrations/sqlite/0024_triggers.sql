-- What began a run, as JSON (kind, id, by); null of runs of before, and of those whose sender did not say.
ALTER TABLE dag_runs ADD COLUMN begun_by TEXT;
