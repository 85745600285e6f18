-- The columns mean what they mean in SQLite. Texts compare byte for byte, whatever the database's
-- collation is and becomes.

-- Keys and ids can be longer than an index takes.
CREATE FUNCTION bits_digest(text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT sha256(convert_to($1, 'UTF8')) $$;

-- A fragment writes received, synced, incarnation, handle and progressed_at: no index may hold one
-- of these, nor claimed_by and claimed_until. Room on each page lets such a write stay on it.
CREATE TABLE session (
    id            UUID     PRIMARY KEY,
    epoch         BIGINT   NOT NULL CHECK (epoch >= 0),
    total         BIGINT            CHECK (total >= 0),
    received      BIGINT   NOT NULL CHECK (received BETWEEN 0 AND coalesce(total, 0)),
    synced        BIGINT   NOT NULL CHECK (synced BETWEEN 0 AND received),
    retry_at      BIGINT,
    created_at    BIGINT   NOT NULL,
    progressed_at BIGINT   NOT NULL,
    timeout       BIGINT   NOT NULL CHECK (timeout >= 0),
    -- Raised to progressed_at + timeout only when it has passed.
    expires_at    BIGINT   NOT NULL,
    reply_length  BIGINT            CHECK (reply_length > 0),
    refused       BIGINT,
    -- Which server sees to it, and until when others leave it to that one.
    claimed_until BIGINT,
    fragment_seen SMALLINT NOT NULL CHECK (fragment_seen IN (0, 1)),
    copy          SMALLINT NOT NULL DEFAULT 0 CHECK (copy IN (0, 1)),
    state         TEXT COLLATE "C" NOT NULL,
    principal     TEXT COLLATE "C" NOT NULL,
    address       TEXT COLLATE "C" NOT NULL,
    directory     TEXT COLLATE "C" NOT NULL,
    destination   TEXT COLLATE "C" NOT NULL,
    storage       TEXT COLLATE "C" NOT NULL,
    folder        TEXT COLLATE "C" NOT NULL,
    key           TEXT COLLATE "C" NOT NULL,
    incarnation   TEXT COLLATE "C" NOT NULL,
    handle        TEXT COLLATE "C",
    intent        TEXT COLLATE "C",
    url           TEXT COLLATE "C",
    notification  TEXT COLLATE "C",
    reply_url     TEXT COLLATE "C",
    claimed_by    TEXT COLLATE "C"
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX session_created ON session (created_at, id);
CREATE INDEX session_principal ON session (principal, created_at, id);
CREATE INDEX session_directory ON session (lower(directory), created_at, id);
CREATE INDEX session_destination ON session (left(destination, 200));
CREATE INDEX session_expires ON session (expires_at);
CREATE INDEX session_unfinished ON session (principal) WHERE state <> 'complete';
CREATE INDEX session_job ON session (coalesce(retry_at, 0)) WHERE state IN ('publishing', 'notifying');
CREATE UNIQUE INDEX session_claim ON session (storage, bits_digest(key)) WHERE state = 'publishing';

CREATE TABLE tombstone (
    id            UUID     PRIMARY KEY,
    published     BIGINT            CHECK (published >= 0),
    ended_at      BIGINT   NOT NULL,
    keep_until    BIGINT   NOT NULL,
    claimed_until BIGINT,
    unclean       SMALLINT NOT NULL CHECK (unclean IN (0, 1)),
    principal     TEXT COLLATE "C" NOT NULL,
    destination   TEXT COLLATE "C" NOT NULL,
    ending        TEXT COLLATE "C" NOT NULL,
    storage       TEXT COLLATE "C" NOT NULL,
    folder        TEXT COLLATE "C" NOT NULL,
    key           TEXT COLLATE "C" NOT NULL,
    handle        TEXT COLLATE "C",
    claimed_by    TEXT COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX tombstone_unclean ON tombstone (ended_at) WHERE unclean = 1;
CREATE INDEX tombstone_clean ON tombstone (keep_until) WHERE unclean = 0;

CREATE TABLE piece (
    session UUID   NOT NULL,
    stop    BIGINT NOT NULL,
    start   BIGINT NOT NULL,
    id      TEXT COLLATE "C" NOT NULL
);

CREATE UNIQUE INDEX piece_place ON piece (session, stop, start, bits_digest(id));

CREATE TABLE replaced_piece (
    session UUID   NOT NULL,
    stop    BIGINT NOT NULL,
    start   BIGINT NOT NULL,
    id      TEXT COLLATE "C" NOT NULL
);

CREATE UNIQUE INDEX replaced_piece_place ON replaced_piece (session, stop, start, bits_digest(id));

CREATE TABLE outbox (
    number      BIGINT   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_at      BIGINT   NOT NULL,
    attempt     BIGINT   NOT NULL CHECK (attempt >= 0),
    at          BIGINT   NOT NULL,
    session     UUID,
    size        BIGINT            CHECK (size >= 0),
    received    BIGINT            CHECK (received >= 0),
    dropped     BIGINT            CHECK (dropped > 0),
    oldest_at   BIGINT,
    newest_at   BIGINT,
    claimed     SMALLINT NOT NULL CHECK (claimed IN (0, 1)),
    complete    SMALLINT          CHECK (complete IN (0, 1)),
    subscriber  TEXT COLLATE "C" NOT NULL,
    kind        TEXT COLLATE "C" NOT NULL,
    principal   TEXT COLLATE "C",
    address     TEXT COLLATE "C",
    directory   TEXT COLLATE "C",
    destination TEXT COLLATE "C",
    storage     TEXT COLLATE "C",
    key         TEXT COLLATE "C",
    reason      TEXT COLLATE "C",
    CHECK ((kind = 'gap') = (session IS NULL)),
    CHECK ((kind = 'gap') = (dropped IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX outbox_due ON outbox (subscriber, due_at);
CREATE INDEX outbox_session ON outbox (subscriber, session, number);
CREATE INDEX outbox_age ON outbox (subscriber, at) WHERE kind <> 'gap';
CREATE INDEX outbox_gap ON outbox (subscriber) WHERE kind = 'gap';

-- How many bytes the unfinished uploads have that quotas count, in sixteen rows each, so that
-- uploads of one directory or user do not wait for each other's commits. Which row a session
-- counts in follows from its id.
CREATE TABLE unfinished_of_directory (
    directory TEXT COLLATE "C" NOT NULL,
    slot      SMALLINT NOT NULL,
    bytes     BIGINT   NOT NULL,
    PRIMARY KEY (directory, slot)
) WITH (fillfactor = 50);

CREATE TABLE unfinished_of_user (
    directory TEXT COLLATE "C" NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    slot      SMALLINT NOT NULL,
    bytes     BIGINT   NOT NULL,
    PRIMARY KEY (directory, principal, slot)
) WITH (fillfactor = 50);

CREATE FUNCTION count_unfinished() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before BIGINT := 0;
    change BIGINT := 0;
    place  TEXT COLLATE "C" := lower(OLD.directory);
    part   SMALLINT := get_byte(uuid_send(OLD.id), 15) & 15;
BEGIN
    IF OLD.state <> 'complete' THEN
        before := coalesce(OLD.total, 0);
    END IF;
    change := -before;
    IF TG_OP = 'UPDATE' AND NEW.state <> 'complete' THEN
        change := coalesce(NEW.total, 0) - before;
    END IF;
    IF change > 0 THEN
        INSERT INTO unfinished_of_directory AS counted VALUES (place, part, change)
        ON CONFLICT (directory, slot) DO UPDATE SET bytes = counted.bytes + excluded.bytes;
        INSERT INTO unfinished_of_user AS counted VALUES (place, OLD.principal, part, change)
        ON CONFLICT (directory, principal, slot) DO UPDATE SET bytes = counted.bytes + excluded.bytes;
    ELSIF change < 0 THEN
        UPDATE unfinished_of_directory SET bytes = greatest(0, bytes + change) WHERE directory = place AND slot = part;
        UPDATE unfinished_of_user SET bytes = greatest(0, bytes + change)
        WHERE directory = place AND principal = OLD.principal AND slot = part;
        DELETE FROM unfinished_of_user
        WHERE directory = place AND principal = OLD.principal AND slot = part AND bytes = 0;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER unfinished_changes AFTER UPDATE OF total, state ON session
FOR EACH ROW WHEN (OLD.total IS DISTINCT FROM NEW.total OR (OLD.state = 'complete') <> (NEW.state = 'complete'))
EXECUTE FUNCTION count_unfinished();

CREATE TRIGGER unfinished_ends AFTER DELETE ON session
FOR EACH ROW WHEN (OLD.total > 0 AND OLD.state <> 'complete')
EXECUTE FUNCTION count_unfinished();
