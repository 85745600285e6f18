-- Events that subscribers have not heard yet, one row for each subscriber and event. Times are
-- milliseconds since the Unix epoch. Numbers are never given twice.
CREATE TABLE outbox (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber  TEXT    NOT NULL,
    -- When it is due, or its claim lapses.
    due_at      INTEGER NOT NULL,
    claimed     INTEGER NOT NULL CHECK (claimed IN (0, 1)),
    attempt     INTEGER NOT NULL CHECK (attempt >= 0),
    kind        TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    -- Of an event; null where the kind is 'gap'.
    session     BLOB             CHECK (length(session) = 16),
    principal   TEXT,
    address     TEXT,
    directory   TEXT,
    destination TEXT,
    storage     TEXT,
    key         TEXT,
    size        INTEGER          CHECK (size >= 0),
    received    INTEGER          CHECK (received >= 0),
    complete    INTEGER          CHECK (complete IN (0, 1)),
    reason      TEXT,
    -- Of a gap: how many events were dropped, and when the oldest and the newest of them happened.
    dropped     INTEGER          CHECK (dropped > 0),
    oldest_at   INTEGER,
    newest_at   INTEGER,
    CHECK ((kind = 'gap') = (session IS NULL)),
    CHECK ((kind = 'gap') = (dropped IS NOT NULL))
) STRICT;

CREATE INDEX outbox_due ON outbox (subscriber, due_at);
CREATE INDEX outbox_session ON outbox (subscriber, session, number);
CREATE INDEX outbox_age ON outbox (subscriber, at) WHERE kind <> 'gap';
CREATE INDEX outbox_gap ON outbox (subscriber) WHERE kind = 'gap';
