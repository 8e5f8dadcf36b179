-- Apps of files that have a database: which of the apps that have had the id each is, in the files of which
-- Doorbell, and since when it is in them no more.
CREATE TABLE file_app (
    app TEXT NOT NULL,
    doorbell TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    left_at INTEGER,
    PRIMARY KEY (app, doorbell)
) STRICT;

-- Tombstones of changes up to this revision may be gone: who has not seen them reads all apps.
ALTER TABLE registry ADD COLUMN trimmed INTEGER NOT NULL DEFAULT 0;
