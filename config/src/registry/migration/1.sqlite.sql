-- Where the registry is: one row, which each change updates first.
CREATE TABLE registry (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL CHECK (revision >= 0),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO registry (one, revision, version) VALUES (1, 0, 0);

-- A row without definition is the tombstone of an app that is gone.
CREATE TABLE app (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    definition TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX app_revision ON app (revision);

-- Sealed by others: nothing here can open it.
CREATE TABLE secret (
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (app, name)
) STRICT;

CREATE TABLE token (
    name TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at INTEGER
) STRICT;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,
    act TEXT NOT NULL,
    app TEXT,
    subject TEXT,
    revision INTEGER
) STRICT;
CREATE INDEX audit_app ON audit (app, number);
