-- 'BITS': tells this database from any other SQLite file.
PRAGMA application_id = 0x42495453;

-- Live sessions. Times are milliseconds since the Unix epoch, timeout is milliseconds.
-- A fragment writes received, synced, incarnation, handle and progressed_at: no index may hold one of these.
CREATE TABLE session (
    number        INTEGER PRIMARY KEY,
    id            BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    principal     TEXT    NOT NULL,
    address       TEXT    NOT NULL,
    directory     TEXT    NOT NULL,
    destination   TEXT    NOT NULL,
    storage       TEXT    NOT NULL,
    folder        TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    epoch         INTEGER NOT NULL CHECK (epoch >= 0),
    total         INTEGER          CHECK (total >= 0),
    fragment_seen INTEGER NOT NULL CHECK (fragment_seen IN (0, 1)),
    received      INTEGER NOT NULL CHECK (received BETWEEN 0 AND coalesce(total, 0)),
    synced        INTEGER NOT NULL CHECK (synced BETWEEN 0 AND received),
    incarnation   TEXT    NOT NULL,
    handle        TEXT,
    intent        TEXT,
    retry_at      INTEGER,
    created_at    INTEGER NOT NULL,
    progressed_at INTEGER NOT NULL,
    timeout       INTEGER NOT NULL CHECK (timeout >= 0),
    -- Raised to progressed_at + timeout only when it has passed.
    expires_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX session_created ON session (created_at, id);
CREATE INDEX session_principal ON session (principal, created_at, id);
CREATE INDEX session_directory ON session (directory, created_at, id);
CREATE INDEX session_destination ON session (destination);
CREATE INDEX session_expires ON session (expires_at);
CREATE INDEX session_unfinished ON session (principal) WHERE state <> 'complete';
CREATE INDEX session_publishing ON session (coalesce(retry_at, 0)) WHERE state = 'publishing';
CREATE UNIQUE INDEX session_claim ON session (storage, key) WHERE state = 'publishing';

-- Ended sessions.
CREATE TABLE tombstone (
    number      INTEGER PRIMARY KEY,
    id          BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    principal   TEXT    NOT NULL,
    destination TEXT    NOT NULL,
    ending      TEXT    NOT NULL,
    published   INTEGER          CHECK (published >= 0),
    ended_at    INTEGER NOT NULL,
    keep_until  INTEGER NOT NULL,
    storage     TEXT    NOT NULL,
    folder      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    handle      TEXT,
    unclean     INTEGER NOT NULL CHECK (unclean IN (0, 1))
) STRICT;

CREATE INDEX tombstone_unclean ON tombstone (ended_at) WHERE unclean = 1;
CREATE INDEX tombstone_clean ON tombstone (keep_until) WHERE unclean = 0;

-- Where the bytes of live and unclean sessions lie: from start up to stop.
CREATE TABLE piece (
    session BLOB    NOT NULL,
    stop    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    id      TEXT    NOT NULL,
    PRIMARY KEY (session, stop, start, id)
) STRICT, WITHOUT ROWID;

-- Pieces that the session names no more, and whose bytes are not deleted yet.
CREATE TABLE replaced_piece (
    session BLOB    NOT NULL,
    stop    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    id      TEXT    NOT NULL,
    PRIMARY KEY (session, stop, start, id)
) STRICT, WITHOUT ROWID;
