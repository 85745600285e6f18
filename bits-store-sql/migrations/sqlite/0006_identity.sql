-- Which database this is, for what else belongs to it: the same in all its copies and backups.
CREATE TABLE identity (
    single INTEGER PRIMARY KEY CHECK (single = 1),
    id     BLOB    NOT NULL CHECK (length(id) = 16)
) STRICT;

INSERT INTO identity VALUES (1, randomblob(16));
