-- now
SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS now

-- identity
SELECT id FROM identity

-- create
INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, timeout, url, state, epoch, fragment_seen, received, synced, incarnation, copy, created_at, progressed_at, expires_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $11, 'receiving', 0, 0, 0, 0, '', 0, clock.now, clock.now, clock.now + $9 FROM (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS now) AS clock WHERE CASE WHEN $10 IS NULL THEN TRUE ELSE (SELECT count(*) FROM session WHERE principal = $2 AND state <> 'complete' AND lower(directory) = lower($4 COLLATE "C")) < $10 END RETURNING id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, url, notification, copy, reply_url, reply_length, refused

-- name
UPDATE session SET fragment_seen = 1 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'receiving' RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- begin_upload
UPDATE session SET total = $4, fragment_seen = 1, progressed_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'receiving' AND (total = $4 OR (total IS NULL AND coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_user AS counted WHERE counted.directory = lower(session.directory) AND counted.principal = session.principal), 0) <= $5 - $4 AND coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_directory AS counted WHERE counted.directory = lower(session.directory)), 0) <= $6 - $4)) RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- unfinished
SELECT id, coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_user AS counted WHERE counted.directory = lower(session.directory) AND counted.principal = session.principal), 0) AS of_user, coalesce((SELECT CAST(sum(bytes) AS BIGINT) FROM unfinished_of_directory AS counted WHERE counted.directory = lower(session.directory)), 0) AS of_directory FROM session WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'receiving' AND total IS NULL

-- advance
UPDATE session SET received = $4, synced = greatest(synced, $5), incarnation = $6, handle = coalesce($7, handle), progressed_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'receiving' RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- regress
UPDATE session SET received = $4, synced = least(synced, $4), epoch = epoch + 1, state = 'receiving', intent = NULL, retry_at = NULL, copy = CASE WHEN $4 < received THEN 0 ELSE copy END, reply_url = CASE WHEN $4 < received THEN NULL ELSE reply_url END, reply_length = CASE WHEN $4 < received THEN NULL ELSE reply_length END WHERE id = $1 AND epoch = $2 AND received = $3 AND state = $5 RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- notify
UPDATE session SET state = 'notifying', epoch = epoch + 1, synced = received, notification = coalesce(notification, $4), refused = NULL, claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'receiving' AND received = total AND copy = 0 RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- notified
UPDATE session SET state = CASE WHEN $4 = 1 THEN 'notifying' ELSE 'complete' END, epoch = epoch + $4, copy = $4, reply_url = $5, reply_length = $6, retry_at = NULL, progressed_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT), claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'notifying' AND copy = 0 RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- not_notified
UPDATE session SET state = 'receiving', refused = $4, retry_at = NULL WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'notifying' AND copy = 0 RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- postpone_notifying
UPDATE session SET retry_at = $4 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'notifying' RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- intend
UPDATE session SET state = 'publishing', epoch = epoch + 1, synced = received, intent = $4, retry_at = NULL, claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = $5 AND received = total AND ($5 = 'receiving' OR copy = 1) AND NOT EXISTS (SELECT 1 FROM session AS other WHERE other.storage = session.storage AND bits_digest(other.key) = bits_digest(session.key) AND other.state = 'publishing') RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- claimant
SELECT other.id FROM session AS mine JOIN session AS other ON other.storage = mine.storage AND bits_digest(other.key) = bits_digest(mine.key) AND other.state = 'publishing' WHERE mine.id = $1 AND mine.epoch = $2 AND mine.received = $3 AND mine.state = $4

-- withdraw
UPDATE session SET state = 'receiving', intent = NULL, retry_at = NULL WHERE id = $1 AND epoch = $2 AND received = $3 AND state = $4 AND ($4 = 'publishing' OR copy = 1) RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- postpone
UPDATE session SET retry_at = $4 WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'publishing' RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- published
UPDATE session SET state = 'complete', intent = NULL, retry_at = NULL, progressed_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) WHERE id = $1 AND epoch = $2 AND received = $3 AND state = 'publishing' RETURNING id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, notification, copy, reply_url, reply_length, refused

-- end
DELETE FROM session WHERE id = $1 AND epoch = $2 AND received = $3 AND state = $4 RETURNING id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, url, notification, copy, reply_url, reply_length, refused, CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS now

-- bury
INSERT INTO tombstone (id, principal, destination, ending, published, ended_at, keep_until, storage, folder, key, handle, unclean) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- keep_replaced_pieces
INSERT INTO replaced_piece (session, stop, start, id) SELECT session, stop, start, id FROM piece WHERE session = $1 AND stop BETWEEN $2 AND $3 AND start >= $2 AND (stop, start, id) <> ($3, $2, $4) ON CONFLICT DO NOTHING

-- delete_replaced_pieces
DELETE FROM piece WHERE session = $1 AND stop BETWEEN $2 AND $3 AND start >= $2 AND (stop, start, id) <> ($3, $2, $4)

-- add_piece
INSERT INTO piece (session, stop, start, id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING

-- keep_pieces_after
INSERT INTO replaced_piece (session, stop, start, id) SELECT session, stop, start, id FROM piece WHERE session = $1 AND stop > $2 ON CONFLICT DO NOTHING

-- delete_pieces_after
DELETE FROM piece WHERE session = $1 AND stop > $2

-- forget_piece
DELETE FROM replaced_piece WHERE session = $1 AND stop = $2 AND start = $3 AND id = $4

-- delete_pieces
DELETE FROM piece WHERE session = $1

-- forget_pieces
DELETE FROM replaced_piece WHERE session = $1

-- pieces
SELECT session, stop, start, id FROM piece WHERE session = $1 AND stop > $2 ORDER BY start, stop

-- replaced_pieces
SELECT session, stop, start, id FROM replaced_piece WHERE session = $1 ORDER BY start, stop

-- raise_expiry
UPDATE session SET expires_at = progressed_at + timeout WHERE id IN (SELECT id FROM session WHERE expires_at <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) AND progressed_at + timeout > CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)

-- cleaned
UPDATE tombstone SET unclean = 0 WHERE id = $1 AND unclean = 1

-- purge
DELETE FROM tombstone WHERE id IN (SELECT id FROM tombstone WHERE unclean = 0 AND keep_until <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) ORDER BY keep_until LIMIT $1 FOR UPDATE SKIP LOCKED)

-- load
SELECT id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, url, notification, copy, reply_url, reply_length, refused, NULL AS ending, NULL AS published, NULL AS ended_at, NULL AS keep_until, NULL AS unclean FROM session WHERE id = $1 UNION ALL SELECT id, principal, NULL, NULL, destination, storage, folder, key, NULL, NULL, NULL, NULL, NULL, NULL, NULL, handle, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ending, published, ended_at, keep_until, unclean FROM tombstone WHERE id = $1

-- census
WITH past AS (SELECT count(*) AS expired FROM session WHERE expires_at <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AND progressed_at + timeout <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)) SELECT expired, (SELECT count(*) FROM (SELECT 1 FROM session LIMIT (SELECT greatest($1, $2 * expired) FROM past)) AS counted) AS live FROM past

-- tally
SELECT state, count(*) AS sessions, count(*) FILTER (WHERE progressed_at <= clock.now - $1) AS idle_1, count(*) FILTER (WHERE progressed_at <= clock.now - $2) AS idle_2, count(*) FILTER (WHERE progressed_at <= clock.now - $3) AS idle_3 FROM (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS now) AS clock, session GROUP BY state

-- expired
UPDATE session SET claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id IN (SELECT id FROM session WHERE expires_at <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AND progressed_at + timeout <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AND (claimed_until IS NULL OR claimed_until <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) OR claimed_by = current_setting('application_name')) ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, url, notification, copy, reply_url, reply_length, refused

-- unpublished
UPDATE session SET claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id IN (SELECT id FROM session WHERE state IN ('publishing', 'notifying') AND coalesce(retry_at, 0) <= 0 + CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AND (coalesce(retry_at, 0), id) > ($2, $3) AND (claimed_until IS NULL OR claimed_until <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) OR claimed_by = current_setting('application_name')) ORDER BY coalesce(retry_at, 0), id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, url, notification, copy, reply_url, reply_length, refused

-- unclean
UPDATE tombstone SET claimed_by = current_setting('application_name'), claimed_until = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + 30000 WHERE id IN (SELECT id FROM tombstone WHERE unclean = 1 AND (ended_at, id) > ($2, $3) AND (claimed_until IS NULL OR claimed_until <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) OR claimed_by = current_setting('application_name')) ORDER BY ended_at, id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, principal, destination, ending, published, ended_at, keep_until, storage, folder, key, handle, unclean

-- tell
INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, received, complete, reason) VALUES ($1, $2, 0, 0, $3, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- claim_deliveries
UPDATE outbox SET claimed = 1, attempt = attempt + 1, due_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + $3 WHERE number IN (SELECT number FROM outbox AS head WHERE subscriber = $1 AND due_at <= CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AND NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.subscriber = head.subscriber AND earlier.session = head.session AND earlier.number < head.number) ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING number, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, received, complete, reason, dropped, oldest_at, newest_at

-- delivered
DELETE FROM outbox WHERE number = $1

-- postpone_delivery
UPDATE outbox SET claimed = 0, due_at = CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) + $3 WHERE number = $1 AND attempt = $2 AND claimed = 1

-- drop_old
DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE subscriber = $1 AND kind <> 'gap' AND at < CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) - $2 AND NOT (claimed = 1 AND due_at > CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)) ORDER BY at, number LIMIT $3) RETURNING at

-- drop_surplus
DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE subscriber = $1 AND kind <> 'gap' AND NOT (claimed = 1 AND due_at > CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)) ORDER BY at, number LIMIT greatest(0, least($3, ((SELECT count(*) FROM outbox WHERE subscriber = $1 AND kind <> 'gap') - $2)))) RETURNING at

-- take_gaps
DELETE FROM outbox WHERE subscriber = $1 AND kind = 'gap' AND NOT (claimed = 1 AND due_at > CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)) RETURNING dropped, oldest_at, newest_at

-- add_gap
INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, dropped, oldest_at, newest_at) SELECT $1, clock.now, 0, 0, 'gap', clock.now, $2, $3, $4 FROM (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS now) AS clock

-- forget_subscriber
DELETE FROM outbox WHERE subscriber = $1

-- next_due
SELECT due_at - CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS wait FROM outbox AS head WHERE subscriber = $1 AND NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.subscriber = head.subscriber AND earlier.session = head.session AND earlier.number < head.number) ORDER BY due_at LIMIT 1

-- recent
SELECT number, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, received, complete, reason, dropped, oldest_at, newest_at FROM outbox WHERE subscriber = $1 AND kind <> 'gap' ORDER BY at DESC, number DESC LIMIT $2

-- recent_of
SELECT number, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, received, complete, reason, dropped, oldest_at, newest_at FROM outbox WHERE subscriber = $1 AND session = $2 ORDER BY number DESC LIMIT $3

-- pending
SELECT count(*) AS count FROM outbox WHERE subscriber = $1

-- pending_of
SELECT count(*) AS count FROM outbox WHERE subscriber = $1 AND session = $2

-- subscribers
SELECT DISTINCT subscriber FROM outbox

