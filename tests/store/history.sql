-- Runs that are over, run and wait, as the first schema had them; a later one has them too.
INSERT INTO dag_definitions (definition_id, dag_id, sha256, task_count, created_at_us, saved_at_us, document)
    VALUES (1, 'old', 'digest-1', 2, 1000, 2000, '{"dag_id":"old","tasks":[{"command":"true","id":"a"},{"command":"true","depends_on":["a"],"id":"b"}]}');
INSERT INTO dag_runs (run_id, dag_id, definition_id, status, version, scope_type, scope_id, scope_source, worker_id,
        node_id, owner_node, priority, delivery, task_count, created_at_us, started_at_us, finished_at_us, error)
    VALUES ('run-1', 'old', 1, 'completed', 3, 'global', '', 'default', 'worker-global', 'node-1', 'node-1', 20,
            'local', 2, 1000000, 1100000, 1900000, NULL),
        ('run-2', 'old', 1, 'failed', 3, 'global', '', 'default', 'worker-global', 'node-1', 'node-1', 40,
            'local', 2, 2000000, 2100000, 2900000, NULL),
        ('run-3', 'old', 1, 'running', 2, 'global', '', 'default', 'worker-global', 'node-1', 'node-1', 20,
            'local', 2, 3000000, 3100000, NULL, NULL),
        ('run-4', 'old', 1, 'pending', 1, 'project', 'proj-a', 'explicit', 'worker-project-proj-a', 'node-1', 'node-1',
            10, 'local', 2, 4000000, NULL, NULL, NULL);
INSERT INTO run_tasks (run_id, task_no, task_id, status, version, attempts, failures, exit_code, started_at_us,
        finished_at_us, blocked_by, error, outputs)
    VALUES ('run-1', 0, 'a', 'completed', 3, 1, 0, 0, 1200000, 1300000, NULL, NULL, '{"path":"/x"}'),
        ('run-1', 1, 'b', 'completed', 3, 2, 1, 0, 1400000, 1500000, NULL, NULL, NULL),
        ('run-2', 0, 'a', 'failed', 3, 1, 1, 7, 2200000, 2300000, NULL, 'exit status 7', NULL),
        ('run-2', 1, 'b', 'skipped', 2, 0, 0, NULL, NULL, 2400000, 'a', NULL, NULL),
        ('run-3', 0, 'a', 'running', 2, 1, 0, NULL, 3200000, NULL, NULL, NULL, NULL),
        ('run-3', 1, 'b', 'pending', 1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL),
        ('run-4', 0, 'a', 'pending', 1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL),
        ('run-4', 1, 'b', 'pending', 1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO task_executions (run_id, task_no, attempt, task_id, status, worker_id, epoch, started_at_us,
        finished_at_us, exit_code, error, stdout_bytes, stdout_tail)
    VALUES ('run-1', 0, 1, 'a', 'completed', 'worker-global', 1, 1200000, 1300000, 0, NULL, 6, 'hello' || char(10)),
        ('run-1', 1, 1, 'b', 'failed', 'worker-global', 1, 1400000, 1450000, 1, 'exit status 1', 0, ''),
        ('run-1', 1, 2, 'b', 'completed', 'worker-global', 1, 1460000, 1500000, 0, NULL, 0, ''),
        ('run-2', 0, 1, 'a', 'failed', 'worker-global', 1, 2200000, 2300000, 7, 'exit status 7', 0, ''),
        ('run-3', 0, 1, 'a', 'running', 'worker-global', 1, 3200000, NULL, NULL, NULL, 0, '');
INSERT INTO worker_queue (node_id, worker_id, run_id, status, priority, epoch, created_at_us, dag_json)
    VALUES ('node-1', 'worker-global', 'run-3', 'claimed', 20, 1, 3000000, '{"dag_id":"old","tasks":[{"command":"true","id":"a"},{"command":"true","depends_on":["a"],"id":"b"}]}'),
        ('node-1', 'worker-project-proj-a', 'run-4', 'queued', 10, 0, 4000000, '{"dag_id":"old","tasks":[{"command":"true","id":"a"},{"command":"true","depends_on":["a"],"id":"b"}]}');
INSERT INTO workers (node_id, worker_id, scope_type, scope_id, status, pid, epoch, slots, started_at_us,
        heartbeat_at_us, lease_until_us, current_run)
    VALUES ('node-1', 'worker-global', 'global', '', 'busy', 4194303, 1, 4, 1000000, 3200000, 18200000, 'run-3');
INSERT INTO events (at_us, kind, status, run_id, dag_id) VALUES (1000000, 'run', 'pending', 'run-1', 'old');
INSERT INTO api_tokens (name, sha256, may, created_at_us) VALUES ('reader', 'digest', 'read', 1000);
INSERT INTO audit (at_us, actor, action, subject, source) VALUES (1000, 'cli', 'token.create', 'reader', 'local');
