-- +goose Up

-- The control plane: written at once, held in memory.
-- An identity column is never used again, so an app made again under the same id starts empty.
-- Times are microseconds since 1970 UTC.
CREATE TABLE apps (
    app_uid    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    settings   BYTEA    NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE keys (
    id           TEXT    NOT NULL PRIMARY KEY,
    app_uid      BIGINT NOT NULL,
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    secret       BYTEA    NOT NULL,
    attributes   BYTEA    NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX keys_by_app ON keys (app_uid, created_at, id);

CREATE TABLE rules (
    app_uid    BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    rules      BYTEA    NOT NULL,
    created_at BIGINT NOT NULL,
    actor      TEXT    NOT NULL,
    PRIMARY KEY (app_uid, version)
);

-- An app's audit outlives it, so it names the id.
CREATE TABLE audit (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT    NOT NULL,
    app_id  TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    target  TEXT    NOT NULL,
    before  BYTEA,
    after   BYTEA
);
CREATE INDEX audit_by_app ON audit (app_id, id);

CREATE TABLE idempotency (
    key          TEXT    NOT NULL PRIMARY KEY,
    fingerprint  BYTEA    NOT NULL,
    status       BIGINT NOT NULL,
    content_type TEXT    NOT NULL,
    body         BYTEA    NOT NULL,
    claimed_at   BIGINT NOT NULL
);
CREATE INDEX idempotency_by_time ON idempotency (claimed_at);

-- The log of each app is the truth; memory holds what is read from it.
CREATE TABLE app_head (
    app_uid BIGINT NOT NULL PRIMARY KEY,
    seq     BIGINT NOT NULL,
    epoch   TEXT    NOT NULL
);

-- No index but the primary key: an index on random topics makes an append six times as dear.
CREATE TABLE messages (
    app_uid    BIGINT NOT NULL,
    seq        BIGINT NOT NULL,
    part       BIGINT NOT NULL,
    topic      TEXT COLLATE "C" NOT NULL,
    payload    BYTEA    NOT NULL,
    properties BYTEA    NOT NULL,
    qos        BIGINT NOT NULL,
    retain     BOOLEAN NOT NULL,
    publisher  TEXT    NOT NULL,
    arrived_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (app_uid, seq, part)
);

CREATE TABLE filters (
    filter_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_uid   BIGINT NOT NULL,
    filter    TEXT    NOT NULL,
    UNIQUE (app_uid, filter)
);

CREATE TABLE pending (
    filter_id BIGINT NOT NULL,
    seq       BIGINT NOT NULL,
    part      BIGINT NOT NULL,
    PRIMARY KEY (filter_id, seq, part)
);

CREATE TABLE sessions (
    app_uid        BIGINT NOT NULL,
    client_id      TEXT COLLATE "C" NOT NULL,
    subject        TEXT    NOT NULL,
    expiry         BIGINT NOT NULL,
    ended_at       BIGINT,
    will           BYTEA,
    cursor_seq     BIGINT NOT NULL,
    cursor_part    BIGINT NOT NULL,
    "window"       BYTEA    NOT NULL,
    inbound        BYTEA    NOT NULL,
    next_packet_id BIGINT NOT NULL,
    fallen_out     BIGINT NOT NULL,
    PRIMARY KEY (app_uid, client_id)
);

CREATE TABLE subscriptions (
    app_uid        BIGINT NOT NULL,
    client_id      TEXT COLLATE "C" NOT NULL,
    filter         TEXT COLLATE "C" NOT NULL,
    filter_id      BIGINT NOT NULL,
    options        BIGINT NOT NULL,
    subscription_id BIGINT NOT NULL,
    begins_seq     BIGINT NOT NULL,
    begins_part    BIGINT NOT NULL,
    retained_after TEXT    NOT NULL,
    PRIMARY KEY (app_uid, client_id, filter)
);
CREATE INDEX subscriptions_by_filter ON subscriptions (filter_id);

CREATE TABLE shared (
    filter_id BIGINT NOT NULL,
    seq       BIGINT NOT NULL,
    part      BIGINT NOT NULL,
    client_id TEXT    NOT NULL,
    state     BIGINT NOT NULL,
    PRIMARY KEY (filter_id, seq, part)
);

-- The last batch of a node, so that the outcome of a broken commit can be found out.
CREATE TABLE node_batch (
    node     TEXT NOT NULL PRIMARY KEY,
    batch_id BYTEA NOT NULL
);

-- For people with SQL: the retained message of each topic. The server does not read it.
CREATE VIEW retained AS
SELECT a.id AS app, m.topic, m.payload, m.qos, m.seq, m.part, m.publisher, m.arrived_at, m.expires_at
FROM messages AS m JOIN apps AS a ON a.app_uid = m.app_uid
WHERE m.retain AND length(m.payload) > 0 AND NOT EXISTS (
    SELECT 1 FROM messages AS n
    WHERE n.app_uid = m.app_uid AND n.topic = m.topic AND n.retain AND (n.seq, n.part) > (m.seq, m.part)
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
