-- How many bytes the unfinished uploads have that quotas count: kept by triggers, so that no
-- upload waits for a sum over all others.
CREATE TABLE unfinished_of_directory (
    directory TEXT    NOT NULL COLLATE NOCASE PRIMARY KEY,
    bytes     INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE unfinished_of_user (
    directory TEXT    NOT NULL COLLATE NOCASE,
    principal TEXT    NOT NULL,
    bytes     INTEGER NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (directory, principal)
) STRICT, WITHOUT ROWID;

INSERT INTO unfinished_of_directory (directory, bytes)
SELECT directory, sum(total) FROM session WHERE total > 0 AND state <> 'complete' GROUP BY directory COLLATE NOCASE;

INSERT INTO unfinished_of_user (directory, principal, bytes)
SELECT directory, principal, sum(total) FROM session
WHERE total > 0 AND state <> 'complete' GROUP BY directory COLLATE NOCASE, principal;

CREATE TRIGGER unfinished_begins AFTER UPDATE OF total, state ON session
WHEN NEW.total > 0 AND NEW.state <> 'complete' AND (coalesce(OLD.total, 0) = 0 OR OLD.state = 'complete')
BEGIN
    INSERT INTO unfinished_of_directory (directory, bytes) VALUES (NEW.directory, NEW.total)
    ON CONFLICT (directory) DO UPDATE SET bytes = bytes + excluded.bytes;
    INSERT INTO unfinished_of_user (directory, principal, bytes) VALUES (NEW.directory, NEW.principal, NEW.total)
    ON CONFLICT (directory, principal) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER unfinished_is_published AFTER UPDATE OF total, state ON session
WHEN OLD.total > 0 AND OLD.state <> 'complete' AND NEW.state = 'complete'
BEGIN
    UPDATE unfinished_of_directory SET bytes = max(0, bytes - OLD.total) WHERE directory = OLD.directory;
    DELETE FROM unfinished_of_directory WHERE directory = OLD.directory AND bytes = 0;
    UPDATE unfinished_of_user SET bytes = max(0, bytes - OLD.total)
    WHERE directory = OLD.directory AND principal = OLD.principal;
    DELETE FROM unfinished_of_user WHERE directory = OLD.directory AND principal = OLD.principal AND bytes = 0;
END;

CREATE TRIGGER unfinished_ends AFTER DELETE ON session
WHEN OLD.total > 0 AND OLD.state <> 'complete'
BEGIN
    UPDATE unfinished_of_directory SET bytes = max(0, bytes - OLD.total) WHERE directory = OLD.directory;
    DELETE FROM unfinished_of_directory WHERE directory = OLD.directory AND bytes = 0;
    UPDATE unfinished_of_user SET bytes = max(0, bytes - OLD.total)
    WHERE directory = OLD.directory AND principal = OLD.principal;
    DELETE FROM unfinished_of_user WHERE directory = OLD.directory AND principal = OLD.principal AND bytes = 0;
END;
