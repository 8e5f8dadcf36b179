-- Apps of files with a database that is made for them: which of the apps that have had the id each is, in the files of
-- which Doorbell, whether it is there still, and when that Doorbell said so last.
CREATE TABLE file_app (
    app TEXT NOT NULL,
    doorbell TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    is_there BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (app, doorbell)
);

-- Tombstones of changes up to this revision may be gone: who has not seen them reads all apps.
ALTER TABLE registry ADD COLUMN trimmed BIGINT NOT NULL DEFAULT 0;

-- Since when an app is being deleted together with its database: until that is done it is not started.
ALTER TABLE app ADD COLUMN ending_since BIGINT;
