//! All SQL that both databases share. Where they differ, a statement names a macro that the
//! module of each database defines: its clock, its comparisons, and how it claims rows.

macro_rules! session_columns {
    () => {
        "id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, \
         received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, \
         url, notification, copy, reply_url, reply_length, refused"
    };
}

/// The columns of a session that its changes touch. Reading the others back costs as much as the
/// change itself.
macro_rules! changing_columns {
    () => {
        "id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, \
         notification, copy, reply_url, reply_length, refused"
    };
}

macro_rules! tombstone_columns {
    () => {
        "id, principal, destination, ending, published, ended_at, keep_until, storage, folder, key, handle, unclean"
    };
}

macro_rules! outbox_columns {
    () => {
        "number, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, \
         received, complete, reason, dropped, oldest_at, newest_at"
    };
}

/// The session stands where the caller saw it, in this state.
macro_rules! unmoved {
    ($state:literal) => {
        concat!("id = $1 AND epoch = $2 AND received = $3 AND state = ", $state)
    };
}

/// `UPDATE session` by compare-and-swap.
macro_rules! update {
    ($state:literal, $set:expr $(, $and:expr)?) => {
        concat!("UPDATE session SET ", $set, " WHERE ", unmoved!($state), $(" AND ", $and,)? " RETURNING ", changing_columns!())
    };
}

/// Bytes of unfinished uploads of a session's principal in its directory.
macro_rules! unfinished_of_user {
    () => {
        "coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_user AS counted \
           WHERE counted.directory = lower(session.directory) AND counted.principal = session.principal), 0)"
    };
}

/// Bytes of unfinished uploads in a session's directory.
macro_rules! unfinished_of_directory {
    () => {
        "coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_directory AS counted \
           WHERE counted.directory = lower(session.directory)), 0)"
    };
}

/// Pieces that lie between two offsets, but not this very one.
macro_rules! pieces_within {
    () => {
        "session = $1 AND stop BETWEEN $2 AND $3 AND start >= $2 AND (stop, start, id) <> ($3, $2, $4)"
    };
}

/// Sessions that made no progress for their timeout.
macro_rules! expired {
    () => {
        concat!("expires_at <= ", now!(), " AND progressed_at + timeout <= ", now!())
    };
}

/// A delivery that somebody has claimed and may still come back for.
macro_rules! held {
    () => {
        concat!("(claimed = 1 AND due_at > ", now!(), ")")
    };
}

/// Nothing earlier of the same session waits for the same subscriber. A gap has no session.
macro_rules! is_head {
    () => {
        "NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.subscriber = head.subscriber \
           AND earlier.session = head.session AND earlier.number < head.number)"
    };
}

/// Hands all statements to a macro, as `name = text;`.
macro_rules! with_statements {
    ($then:ident) => {
        $then! {
            now = concat!("SELECT ", now!(), " AS now");
            identity = "SELECT id FROM identity";

            /// No row where the principal has as many unfinished sessions in the directory as allowed.
            create = concat!(
                "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, timeout, url, \
                   state, epoch, fragment_seen, received, synced, incarnation, copy, created_at, progressed_at, expires_at) \
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $11, \
                   'receiving', 0, 0, 0, 0, '', 0, clock.now, clock.now, clock.now + $9 \
                 FROM (SELECT ", now!(), " AS now) AS clock \
                 WHERE CASE WHEN $10 IS NULL THEN TRUE \
                   ELSE (SELECT count(*) FROM session WHERE principal = $2 AND state <> 'complete' \
                     AND lower(directory) = ", folded!("$4"), ") < $10 END \
                 RETURNING ", session_columns!()
            );

            name = update!("'receiving'", "fragment_seen = 1");
            begin_upload = update!(
                "'receiving'",
                concat!("total = $4, fragment_seen = 1, progressed_at = ", now!()),
                concat!(
                    "(total = $4 OR (total IS NULL AND ", unfinished_of_user!(), " <= $5 - $4 AND ",
                    unfinished_of_directory!(), " <= $6 - $4))"
                )
            );
            /// What is in the way of `begin_upload`.
            unfinished = concat!(
                "SELECT id, ", unfinished_of_user!(), " AS of_user, ", unfinished_of_directory!(), " AS of_directory \
                 FROM session WHERE ", unmoved!("'receiving'"), " AND total IS NULL"
            );
            adopt = update!("'receiving'", "handle = $4", "coalesce(handle, '') = coalesce($5, '')");
            /// The only write of a fragment: one row of one table, no index.
            advance = update!(
                "'receiving'",
                concat!(
                    "received = $4, synced = ", greatest!("synced", "$5"), ", incarnation = $6, \
                     handle = coalesce($7, handle), progressed_at = ", now!()
                )
            );
            /// While receiving, notifying or publishing, which the caller names.
            regress = update!(
                "$5",
                concat!(
                    "received = $4, synced = ", least!("synced", "$4"), ", epoch = epoch + 1, state = 'receiving', \
                     intent = NULL, retry_at = NULL, \
                     copy = CASE WHEN $4 < received THEN 0 ELSE copy END, \
                     reply_url = CASE WHEN $4 < received THEN NULL ELSE reply_url END, \
                     reply_length = CASE WHEN $4 < received THEN NULL ELSE reply_length END"
                )
            );
            notify = update!(
                "'receiving'",
                concat!(
                    "state = 'notifying', epoch = epoch + 1, synced = received, \
                     notification = coalesce(notification, $4), refused = NULL", claims!()
                ),
                "received = total AND copy = 0"
            );
            notified = update!(
                "'notifying'",
                concat!(
                    "state = CASE WHEN $4 = 1 THEN 'notifying' ELSE 'complete' END, epoch = epoch + $4, copy = $4, \
                     reply_url = $5, reply_length = $6, retry_at = NULL, progressed_at = ", now!(), claims!()
                ),
                "copy = 0"
            );
            not_notified = update!("'notifying'", "state = 'receiving', refused = $4, retry_at = NULL", "copy = 0");
            postpone_notifying = update!("'notifying'", "retry_at = $4");
            /// While receiving, with the bytes that were missing; or notifying where the application has
            /// taken it.
            intend = update!(
                "$5",
                concat!(
                    "state = 'publishing', epoch = epoch + 1, total = $6, fragment_seen = 1, received = $6, synced = $6, \
                     intent = $4, retry_at = NULL, \
                     progressed_at = CASE WHEN received < $6 THEN ", now!(), " ELSE progressed_at END", claims!()
                ),
                concat!(
                    "coalesce(total, $6) = $6 AND received <= $6 \
                     AND ($5 = 'receiving' OR (copy = 1 AND received = $6)) AND NOT EXISTS (SELECT 1 FROM session AS other \
                       WHERE other.storage = session.storage AND ", same_key!("session"), " AND other.state = 'publishing')"
                )
            );
            /// Whose claim is in the way of `intend`.
            claimant = concat!(
                "SELECT other.id FROM session AS mine JOIN session AS other \
                   ON other.storage = mine.storage AND ", same_key!("mine"), " AND other.state = 'publishing' \
                 WHERE mine.id = $1 AND mine.epoch = $2 AND mine.received = $3 AND mine.state = $4"
            );
            /// While publishing, or notifying where the application has taken it.
            withdraw = update!(
                "$4",
                "state = 'receiving', intent = NULL, retry_at = NULL",
                "($4 = 'publishing' OR copy = 1)"
            );
            postpone = update!("'publishing'", "retry_at = $4");
            published = update!(
                "'publishing'",
                concat!("state = 'complete', intent = NULL, retry_at = NULL, progressed_at = ", now!())
            );
            /// Takes the session out, and tells the time for its tombstone, and whether there are pieces.
            end = concat!(
                "DELETE FROM session WHERE ", unmoved!("$4"), " RETURNING ", session_columns!(), ", ", now!(), " AS now, \
                   CASE WHEN EXISTS (SELECT 1 FROM piece WHERE piece.session = session.id) \
                     OR EXISTS (SELECT 1 FROM replaced_piece WHERE replaced_piece.session = session.id) THEN 1 ELSE 0 END AS pieces"
            );
            bury = concat!(
                "INSERT INTO tombstone (", tombstone_columns!(), ") \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
            );

            keep_replaced_pieces = concat!(
                "INSERT INTO replaced_piece (session, stop, start, id) \
                 SELECT session, stop, start, id FROM piece WHERE ", pieces_within!(), " ON CONFLICT DO NOTHING"
            );
            delete_replaced_pieces = concat!("DELETE FROM piece WHERE ", pieces_within!());
            add_piece = "INSERT INTO piece (session, stop, start, id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
            keep_pieces_after =
                "INSERT INTO replaced_piece (session, stop, start, id) \
                 SELECT session, stop, start, id FROM piece WHERE session = $1 AND stop > $2 ON CONFLICT DO NOTHING";
            delete_pieces_after = "DELETE FROM piece WHERE session = $1 AND stop > $2";
            forget_piece = "DELETE FROM replaced_piece WHERE session = $1 AND stop = $2 AND start = $3 AND id = $4";
            delete_pieces = "DELETE FROM piece WHERE session = $1";
            forget_pieces = "DELETE FROM replaced_piece WHERE session = $1";

            pieces = "SELECT session, stop, start, id FROM piece WHERE session = $1 AND stop > $2 ORDER BY start, stop";
            replaced_pieces =
                "SELECT session, stop, start, id FROM replaced_piece WHERE session = $1 ORDER BY start, stop";

            /// Raises `expires_at` of sessions that made progress since it was set, if they are among
            /// the first that it has passed of: looking costs the same however many have expired.
            raise_expiry = concat!(
                "UPDATE session SET expires_at = progressed_at + timeout WHERE ", row!(), " IN \
                   (SELECT ", row!(), " FROM session WHERE expires_at <= ", now!(), " \
                    ORDER BY expires_at LIMIT $1", skipping_locked!(), ") \
                 AND progressed_at + timeout > ", now!()
            );
            cleaned = "UPDATE tombstone SET unclean = 0 WHERE id = $1 AND unclean = 1";
            purge = concat!(
                "DELETE FROM tombstone WHERE ", row!(), " IN \
                   (SELECT ", row!(), " FROM tombstone WHERE unclean = 0 AND keep_until <= ", now!(), " \
                    ORDER BY keep_until LIMIT $1", skipping_locked!(), ")"
            );

            /// A session has an empty `ending`; an id is never in both tables.
            load = concat!(
                "SELECT ", session_columns!(), ", NULL AS ending, NULL AS published, NULL AS ended_at, NULL AS keep_until, \
                   NULL AS unclean \
                 FROM session WHERE id = $1 \
                 UNION ALL \
                 SELECT id, principal, NULL, NULL, destination, storage, folder, key, NULL, NULL, NULL, NULL, \
                   NULL, NULL, NULL, handle, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
                   ending, published, ended_at, keep_until, unclean \
                 FROM tombstone WHERE id = $1"
            );
            census = concat!(
                "WITH past AS (SELECT count(*) AS expired FROM session WHERE ", expired!(), ") \
                 SELECT expired, (SELECT count(*) FROM \
                   (SELECT 1 FROM session LIMIT (SELECT ", greatest!("$1", "$2 * expired"), " FROM past)) AS counted) AS live \
                 FROM past"
            );
            tally = concat!(
                "SELECT state, count(*) AS sessions, \
                   count(*) FILTER (WHERE progressed_at <= clock.now - $1) AS idle_1, \
                   count(*) FILTER (WHERE progressed_at <= clock.now - $2) AS idle_2, \
                   count(*) FILTER (WHERE progressed_at <= clock.now - $3) AS idle_3 \
                 FROM (SELECT ", now!(), " AS now) AS clock, session GROUP BY state"
            );
            expired = take!("session", session_columns!(), expired!(), "expires_at");
            /// The sum keeps the cast from giving the comparison another type than the index has.
            unpublished = take!(
                "session",
                session_columns!(),
                concat!(
                    "state IN ('publishing', 'notifying') AND coalesce(retry_at, 0) <= 0 + ", now!(),
                    " AND (coalesce(retry_at, 0), id) > ($2, $3)"
                ),
                "coalesce(retry_at, 0), id"
            );
            unclean = take!(
                "tombstone",
                tombstone_columns!(),
                "unclean = 1 AND (ended_at, id) > ($2, $3)",
                "ended_at, id"
            );

            tell =
                "INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, session, principal, address, directory, \
                   destination, storage, key, size, received, complete, reason) \
                 VALUES ($1, $2, 0, 0, $3, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
            claim_deliveries = concat!(
                "UPDATE outbox SET claimed = 1, attempt = attempt + 1, due_at = ", now!(), " + $3 WHERE number IN \
                   (SELECT number FROM outbox AS head WHERE subscriber = $1 AND due_at <= ", now!(), " AND ", is_head!(), " \
                    ORDER BY due_at LIMIT $2", skipping_locked!(), ") \
                 RETURNING ", outbox_columns!()
            );
            delivered = "DELETE FROM outbox WHERE number = $1";
            postpone_delivery = concat!(
                "UPDATE outbox SET claimed = 0, due_at = ", now!(), " + $3 WHERE number = $1 AND attempt = $2 AND claimed = 1"
            );
            drop_old = concat!(
                "DELETE FROM outbox WHERE number IN \
                   (SELECT number FROM outbox WHERE subscriber = $1 AND kind <> 'gap' AND at < ", now!(), " - $2 \
                    AND NOT ", held!(), " ORDER BY at, number LIMIT $3) \
                 RETURNING at"
            );
            drop_surplus = concat!(
                "DELETE FROM outbox WHERE number IN \
                   (SELECT number FROM outbox WHERE subscriber = $1 AND kind <> 'gap' AND NOT ", held!(), " \
                    ORDER BY at, number LIMIT ", greatest!("0", least!(
                        "$3", "((SELECT count(*) FROM outbox WHERE subscriber = $1 AND kind <> 'gap') - $2)"
                    )), ") \
                 RETURNING at"
            );
            take_gaps = concat!(
                "DELETE FROM outbox WHERE subscriber = $1 AND kind = 'gap' AND NOT ", held!(), " \
                 RETURNING dropped, oldest_at, newest_at"
            );
            add_gap = concat!(
                "INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, dropped, oldest_at, newest_at) \
                 SELECT $1, clock.now, 0, 0, 'gap', clock.now, $2, $3, $4 FROM (SELECT ", now!(), " AS now) AS clock"
            );
            forget_subscriber = "DELETE FROM outbox WHERE subscriber = $1";
            next_due = concat!(
                "SELECT due_at - ", now!(), " AS wait FROM outbox AS head WHERE subscriber = $1 AND ", is_head!(), " \
                 ORDER BY due_at LIMIT 1"
            );
            recent = concat!(
                "SELECT ", outbox_columns!(), " FROM outbox WHERE subscriber = $1 AND kind <> 'gap' \
                 ORDER BY at DESC, number DESC LIMIT $2"
            );
            recent_of = concat!(
                "SELECT ", outbox_columns!(), " FROM outbox WHERE subscriber = $1 AND session = $2 \
                 ORDER BY number DESC LIMIT $3"
            );
            pending = "SELECT count(*) AS count FROM outbox WHERE subscriber = $1";
            pending_of = "SELECT count(*) AS count FROM outbox WHERE subscriber = $1 AND session = $2";
            subscribers = "SELECT DISTINCT subscriber FROM outbox";
        }
    };
}

macro_rules! declare_statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        /// The statements of one database.
        #[derive(Debug)]
        pub(crate) struct Statements {
            $($(#[$doc])* pub(crate) $name: &'static str,)*
        }

        #[cfg(test)]
        impl Statements {
            pub(crate) fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

with_statements!(declare_statements);

/// Fills them in with the macros that stand before it.
macro_rules! fill_statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        pub(crate) const SQL: $crate::statements::Statements = $crate::statements::Statements { $($name: $sql,)* };
    };
}

/// Which filters a listing has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListBy {
    pub(crate) principal: bool,
    pub(crate) directory: bool,
    pub(crate) first_path: bool,
    pub(crate) end_of_paths: bool,
    pub(crate) idle: bool,
    pub(crate) state: bool,
    pub(crate) newest_first: bool,
}
