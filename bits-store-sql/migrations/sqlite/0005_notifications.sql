-- What a server application is told of an upload, and what it answered.
ALTER TABLE session ADD COLUMN url TEXT;
ALTER TABLE session ADD COLUMN notification TEXT;
ALTER TABLE session ADD COLUMN copy INTEGER NOT NULL DEFAULT 0 CHECK (copy IN (0, 1));
ALTER TABLE session ADD COLUMN reply_url TEXT;
ALTER TABLE session ADD COLUMN reply_length INTEGER CHECK (reply_length > 0);
ALTER TABLE session ADD COLUMN refused INTEGER;

-- Jobs under way.
DROP INDEX session_publishing;
CREATE INDEX session_job ON session (coalesce(retry_at, 0)) WHERE state IN ('publishing', 'notifying');
