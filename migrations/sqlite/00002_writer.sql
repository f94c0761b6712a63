-- +goose Up

-- The run of the server that may write. SQLite's lock is a file's and goes with the process, so nothing is put here.
CREATE TABLE writer (
    node     TEXT NOT NULL PRIMARY KEY,
    instance TEXT NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE writer;
