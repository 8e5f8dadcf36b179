-- Where the registry is: one row, which each change updates first.
CREATE TABLE registry (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    revision BIGINT NOT NULL CHECK (revision >= 0),
    version BIGINT NOT NULL
);
INSERT INTO registry (one, revision, version) VALUES (1, 0, 0);

-- A row without definition is the tombstone of an app that is gone.
CREATE TABLE app (
    id TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    created BIGINT NOT NULL,
    definition TEXT,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX app_revision ON app (revision);

-- Sealed by others: nothing here can open it.
CREATE TABLE secret (
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (app, name)
);

CREATE TABLE token (
    name TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at BIGINT
);

CREATE TABLE audit (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,
    act TEXT NOT NULL,
    app TEXT,
    subject TEXT,
    revision BIGINT
);
CREATE INDEX audit_app ON audit (app, number);
