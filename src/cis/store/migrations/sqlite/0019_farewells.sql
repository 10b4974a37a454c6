-- Nodes that are not trusted any more, as long as there may be something to tell them: that their runs are over.

CREATE TABLE farewells (
    node_id     TEXT    PRIMARY KEY,
    public_key  TEXT    NOT NULL,
    url         TEXT,
    matrix_user TEXT,
    until_us    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
