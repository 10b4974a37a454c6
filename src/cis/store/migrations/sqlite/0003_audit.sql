-- The audit log only grows: nothing that speaks SQL to this database changes or removes what was written down.

CREATE TRIGGER audit_keeps_entries BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_keeps_words BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- INSERT OR REPLACE removes a row without asking the trigger above. Before SQLite has given a row its number, it is -1
-- here: a row that had it would else keep every other from being written.
CREATE TRIGGER audit_keeps_numbers BEFORE INSERT ON audit
WHEN NEW.seq != -1 AND EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
