-- In which scopes a token, a node, or a run with all that it starts may act: patterns with commas between, as
-- project:proj-a,user:*. NULL is all of them.

ALTER TABLE api_tokens ADD COLUMN scopes TEXT;
ALTER TABLE peers      ADD COLUMN scopes TEXT;
ALTER TABLE dag_runs   ADD COLUMN scopes TEXT;
