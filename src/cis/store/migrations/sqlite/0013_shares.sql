-- How much waits, counted as it comes and goes, so that nobody has to count rows to know whether there is room: in the
-- queue of a node (node_id empty: DAGs in the outbox) for each worker and each asker (holder empty: for all). Runs that
-- are tasks of others (below = 1) are counted apart: those that wait at the door must not keep out what was let in. What
-- is queued waits for its worker, what is waiting for a place among the runs of its scope.

CREATE TABLE queue_counts (
    node_id TEXT    NOT NULL,
    below   INTEGER NOT NULL,
    holder  TEXT    NOT NULL,
    waiting INTEGER NOT NULL,
    PRIMARY KEY (node_id, below, holder)
) STRICT, WITHOUT ROWID;

ALTER TABLE worker_queue ADD COLUMN below INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker_queue ADD COLUMN asker TEXT;
UPDATE worker_queue SET below = 1
    WHERE EXISTS (SELECT 1 FROM dag_runs r WHERE r.run_id = worker_queue.run_id AND r.parent_run_id IS NOT NULL);
INSERT INTO queue_counts SELECT node_id, below, worker_id, count(*) FROM worker_queue
    WHERE status = 'queued' GROUP BY node_id, below, worker_id;
INSERT INTO queue_counts SELECT node_id, below, '', count(*) FROM worker_queue WHERE status = 'queued' GROUP BY node_id, below;
INSERT INTO queue_counts SELECT '', 0, r.worker_id, count(*) FROM outbox o JOIN dag_runs r ON r.run_id = o.run_id
    WHERE o.kind = 'io.cis.dag.execute' GROUP BY r.worker_id;

CREATE TRIGGER worker_queue_comes AFTER INSERT ON worker_queue WHEN NEW.status IN ('queued', 'waiting')
BEGIN
    INSERT INTO queue_counts VALUES (NEW.node_id, NEW.below, '', 1) ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO queue_counts VALUES (NEW.node_id, NEW.below, NEW.worker_id, 1)
        ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO queue_counts SELECT NEW.node_id, NEW.below, NEW.asker, 1 WHERE NEW.asker IS NOT NULL
        ON CONFLICT DO UPDATE SET waiting = waiting + 1;
END;

CREATE TRIGGER worker_queue_comes_back AFTER UPDATE OF status ON worker_queue
WHEN OLD.status NOT IN ('queued', 'waiting') AND NEW.status IN ('queued', 'waiting')
BEGIN
    INSERT INTO queue_counts VALUES (NEW.node_id, NEW.below, '', 1) ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO queue_counts VALUES (NEW.node_id, NEW.below, NEW.worker_id, 1)
        ON CONFLICT DO UPDATE SET waiting = waiting + 1;
    INSERT INTO queue_counts SELECT NEW.node_id, NEW.below, NEW.asker, 1 WHERE NEW.asker IS NOT NULL
        ON CONFLICT DO UPDATE SET waiting = waiting + 1;
END;

CREATE TRIGGER worker_queue_is_claimed AFTER UPDATE OF status ON worker_queue
WHEN OLD.status IN ('queued', 'waiting') AND NEW.status NOT IN ('queued', 'waiting')
BEGIN
    UPDATE queue_counts SET waiting = waiting - 1
        WHERE node_id = OLD.node_id AND below = OLD.below AND holder IN ('', OLD.worker_id, OLD.asker);
END;

CREATE TRIGGER worker_queue_goes AFTER DELETE ON worker_queue WHEN OLD.status IN ('queued', 'waiting')
BEGIN
    UPDATE queue_counts SET waiting = waiting - 1
        WHERE node_id = OLD.node_id AND below = OLD.below AND holder IN ('', OLD.worker_id, OLD.asker);
END;

CREATE TRIGGER outbox_comes AFTER INSERT ON outbox WHEN NEW.kind = 'io.cis.dag.execute'
BEGIN
    INSERT INTO queue_counts SELECT '', 0, worker_id, 1 FROM dag_runs WHERE run_id = NEW.run_id
        ON CONFLICT DO UPDATE SET waiting = waiting + 1;
END;

CREATE TRIGGER outbox_goes AFTER DELETE ON outbox WHEN OLD.kind = 'io.cis.dag.execute'
BEGIN
    UPDATE queue_counts SET waiting = waiting - 1 WHERE node_id = '' AND below = 0
        AND holder = (SELECT worker_id FROM dag_runs WHERE run_id = OLD.run_id);
END;

-- Trees of runs: a run, the runs of its tasks, and so on. How many there are below the root stands in one row, which is
-- there from the first on. A tree is named after its root here, or "NODE:ROOT" when that is on another node; "above" are
-- the DAGs over a run on the node that it came from.
CREATE TABLE run_trees (
    tree TEXT    PRIMARY KEY,
    runs INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE dag_runs ADD COLUMN tree  TEXT;
ALTER TABLE dag_runs ADD COLUMN above TEXT;
CREATE INDEX dag_runs_by_tree ON dag_runs (tree) WHERE tree IS NOT NULL;

CREATE TRIGGER dag_runs_root_goes AFTER DELETE ON dag_runs WHEN OLD.tree IS NULL
BEGIN
    DELETE FROM run_trees WHERE tree = OLD.run_id;
END;

CREATE TRIGGER dag_runs_branch_goes AFTER DELETE ON dag_runs WHEN OLD.tree IS NOT NULL
BEGIN
    DELETE FROM run_trees WHERE tree = OLD.tree AND NOT EXISTS (SELECT 1 FROM dag_runs WHERE tree = OLD.tree)
        AND NOT EXISTS (SELECT 1 FROM dag_runs WHERE run_id = OLD.tree);
END;
