-- With which version of its program the data of an app is up to date, and whose turn it is to bring it there.
CREATE TABLE upgrade (
    app TEXT PRIMARY KEY,
    version TEXT,
    doorbell TEXT,
    until BIGINT
);
