-- Whose home this is and where it lives; at most one row, number 1. It travels with every copy and backup, which is how
-- a copy notices that it is one. And which steps were made: programs of schema 6 write their own number over
-- user_version, so that alone is not believed.

CREATE TABLE home (
    number  INTEGER PRIMARY KEY,
    node_id TEXT NOT NULL,
    machine TEXT NOT NULL,               -- empty: not known, or a container
    path    TEXT NOT NULL
) STRICT;

CREATE TABLE schema_steps (
    step INTEGER PRIMARY KEY
) STRICT;
