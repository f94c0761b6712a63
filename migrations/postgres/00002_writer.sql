-- +goose Up

-- The run of the server that may write: put here under its lock, looked at in every transaction that writes (ADR 4).
CREATE TABLE writer (
    node     TEXT NOT NULL PRIMARY KEY,
    instance TEXT NOT NULL
);

-- +goose Down
DROP TABLE writer;
