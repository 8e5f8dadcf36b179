-- What is kept for an app of files is kept apart from what is kept for one of the registry: behind `file:`.
UPDATE secret SET app = 'file:' || app WHERE app NOT IN (SELECT id FROM app WHERE definition IS NOT NULL);
UPDATE upgrade SET app = 'file:' || app WHERE app NOT IN (SELECT id FROM app WHERE definition IS NOT NULL);
