-- +goose Up

-- The control plane: written at once, held in memory.
-- AUTOINCREMENT: an app_uid is never used again, so an app made again under the same id starts empty.
-- Times are microseconds since 1970 UTC.
CREATE TABLE apps (
    app_uid    INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    settings   BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

CREATE TABLE keys (
    id           TEXT    NOT NULL PRIMARY KEY,
    app_uid      INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    secret       BLOB    NOT NULL,
    attributes   BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER
) WITHOUT ROWID;
CREATE INDEX keys_by_app ON keys (app_uid, created_at, id);

CREATE TABLE rules (
    app_uid    INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    rules      BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    PRIMARY KEY (app_uid, version)
) WITHOUT ROWID;

-- An app's audit outlives it, so it names the id.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    app_id  TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    target  TEXT    NOT NULL,
    before  BLOB,
    after   BLOB
);
CREATE INDEX audit_by_app ON audit (app_id, id);

CREATE TABLE idempotency (
    key          TEXT    NOT NULL PRIMARY KEY,
    fingerprint  BLOB    NOT NULL,
    status       INTEGER NOT NULL,
    content_type TEXT    NOT NULL,
    body         BLOB    NOT NULL,
    claimed_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_by_time ON idempotency (claimed_at);

-- The log of each app is the truth; memory holds what is read from it.
CREATE TABLE app_head (
    app_uid INTEGER NOT NULL PRIMARY KEY,
    seq     INTEGER NOT NULL,
    epoch   TEXT    NOT NULL
);

-- No index but the primary key: an index on random topics makes an append six times as dear.
CREATE TABLE messages (
    app_uid    INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    part       INTEGER NOT NULL,
    topic      TEXT    NOT NULL,
    payload    BLOB    NOT NULL,
    properties BLOB    NOT NULL,
    qos        INTEGER NOT NULL,
    retain     INTEGER NOT NULL,
    publisher  TEXT    NOT NULL,
    arrived_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (app_uid, seq, part)
) WITHOUT ROWID;

CREATE TABLE filters (
    filter_id INTEGER PRIMARY KEY AUTOINCREMENT,
    app_uid   INTEGER NOT NULL,
    filter    TEXT    NOT NULL,
    UNIQUE (app_uid, filter)
);

CREATE TABLE pending (
    filter_id INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    part      INTEGER NOT NULL,
    PRIMARY KEY (filter_id, seq, part)
) WITHOUT ROWID;

CREATE TABLE sessions (
    app_uid        INTEGER NOT NULL,
    client_id      TEXT    NOT NULL,
    subject        TEXT    NOT NULL,
    expiry         INTEGER NOT NULL,
    ended_at       INTEGER,
    will           BLOB,
    cursor_seq     INTEGER NOT NULL,
    cursor_part    INTEGER NOT NULL,
    "window"       BLOB    NOT NULL,
    inbound        BLOB    NOT NULL,
    next_packet_id INTEGER NOT NULL,
    fallen_out     INTEGER NOT NULL,
    PRIMARY KEY (app_uid, client_id)
) WITHOUT ROWID;

CREATE TABLE subscriptions (
    app_uid        INTEGER NOT NULL,
    client_id      TEXT    NOT NULL,
    filter         TEXT    NOT NULL,
    filter_id      INTEGER NOT NULL,
    options        INTEGER NOT NULL,
    subscription_id INTEGER NOT NULL,
    begins_seq     INTEGER NOT NULL,
    begins_part    INTEGER NOT NULL,
    retained_after TEXT    NOT NULL,
    PRIMARY KEY (app_uid, client_id, filter)
) WITHOUT ROWID;
CREATE INDEX subscriptions_by_filter ON subscriptions (filter_id);

CREATE TABLE shared (
    filter_id INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    part      INTEGER NOT NULL,
    client_id TEXT    NOT NULL,
    state     INTEGER NOT NULL,
    PRIMARY KEY (filter_id, seq, part)
) WITHOUT ROWID;

-- The last batch of a node, so that the outcome of a broken commit can be found out.
CREATE TABLE node_batch (
    node     TEXT NOT NULL PRIMARY KEY,
    batch_id BLOB NOT NULL
) WITHOUT ROWID;

-- For people with SQL: the retained message of each topic. The server does not read it.
CREATE VIEW retained AS
SELECT a.id AS app, m.topic, m.payload, m.qos, m.seq, m.part, m.publisher, m.arrived_at, m.expires_at
FROM messages AS m JOIN apps AS a ON a.app_uid = m.app_uid
WHERE m.retain = 1 AND length(m.payload) > 0 AND NOT EXISTS (
    SELECT 1 FROM messages AS n
    WHERE n.app_uid = m.app_uid AND n.topic = m.topic AND n.retain = 1 AND (n.seq, n.part) > (m.seq, m.part)
);

-- +goose Down
DROP VIEW retained;
DROP TABLE node_batch;
DROP TABLE shared;
DROP TABLE subscriptions;
DROP TABLE sessions;
DROP TABLE pending;
DROP TABLE filters;
DROP TABLE messages;
DROP TABLE app_head;
DROP TABLE idempotency;
DROP TABLE audit;
DROP TABLE rules;
DROP TABLE keys;
DROP TABLE apps;
