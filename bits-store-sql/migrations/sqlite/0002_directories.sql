-- A directory is the same however its url_path is spelt.
DROP INDEX session_directory;
CREATE INDEX session_directory ON session (directory COLLATE NOCASE, created_at, id);
