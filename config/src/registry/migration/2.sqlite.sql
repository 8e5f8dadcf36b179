-- Which registry this is, among all there are: databases of apps are marked with it.
ALTER TABLE registry ADD COLUMN installation TEXT NOT NULL DEFAULT '';
UPDATE registry SET installation = lower(hex(randomblob(16)));
