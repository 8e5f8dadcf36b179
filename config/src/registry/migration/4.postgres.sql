-- The version that an upgrade failed to reach, and why: nobody tries again before somebody decides.
ALTER TABLE upgrade ADD COLUMN failed TEXT;
ALTER TABLE upgrade ADD COLUMN why TEXT;
