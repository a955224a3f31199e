-- What sealing and its verification ask of Postgres. How the digests are made stands in docs/audit.md too, for an
-- auditor who trusts none of this; a test compares the two.

-- name: clock
SELECT clock_timestamp();

-- name: end_of_chain
-- (last number, its end, how far history is closed). NULL: there is none. A time that no sealer writes, which Python
-- does not have either, is the last that it has.
SELECT (SELECT max(number) FROM risk_seal_run),
       (SELECT least(until_at, '9999-12-30Z') FROM risk_seal_run ORDER BY number DESC LIMIT 1),
       (SELECT NULLIF(least(closed_until, '9999-12-30Z'), '-infinity') FROM risk_seal_mark);

-- name: first_stored
-- A time that no calendar has is that of no worker; such a row is the first run's, or never sealed.
SELECT min(stored_at) FROM risk_state_history WHERE stored_at >= '2000-01-01Z' AND stored_at < %(until)s;

-- name: lock_writers
-- The lock of risk_refuse_closed(): waits for the transactions that are inserting.
SELECT pg_advisory_xact_lock(8244247498213122412);

-- name: close
UPDATE risk_seal_mark SET closed_until = greatest(closed_until, %(until)s);

-- name: reopen
UPDATE risk_seal_mark
SET closed_until = coalesce((SELECT until_at FROM risk_seal_run ORDER BY number DESC LIMIT 1), '-infinity')
RETURNING NULLIF(least(closed_until, '9999-12-30Z'), '-infinity');

-- name: lock_chain
-- Whether this transaction alone adds to the chain ("sealruns").
SELECT pg_try_advisory_xact_lock(8315159405414149747);

-- name: row_beyond
-- When the row after the first so many of a span was stored; no row: there are not so many.
SELECT greatest(stored_at, '2000-01-01Z') FROM risk_state_history
WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s
ORDER BY stored_at OFFSET %(rows)s LIMIT 1;

-- name: first_in
SELECT greatest(min(stored_at), '2000-01-01Z') FROM risk_state_history
WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s;

-- name: leaves
-- The leaves of a span of stored_at, from the rows. Text goes through convert_to, because what record_send writes of a
-- text follows the client's encoding. encoding: UTF8; SQL_ASCII in a database of that name, which may hold any bytes.
SELECT trader_id, epoch, to_char(day, 'YYYY-MM-DD'), count(*), sum(merged)::bigint, range_agg(covered)::text,
       sha256(string_agg(digest, ''::bytea ORDER BY seq, recorded_at))
FROM (
    SELECT trader_id, epoch, (recorded_at AT TIME ZONE 'UTC')::date AS day, seq, recorded_at, merged,
           int8range(seq - merged, least(seq, 9223372036854775806) + 1) AS covered,
           sha256(record_send(ROW(
               convert_to(trader_id, %(encoding)s), recorded_at, epoch, seq, convert_to(trace_id, %(encoding)s),
               convert_to(reason, %(encoding)s), daily_pnl, drawdown_pct, current_equity, peak_equity,
               trading_paused, paused_until, last_reset_time, merged, stored_at
           ))) AS digest
    FROM risk_state_history
    WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s
      AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
) AS history
GROUP BY trader_id, epoch, day;

-- name: add_leaf
INSERT INTO risk_seal (run, trader_id, epoch, day, rows, merged, covered, digest)
VALUES (%s, %s, %s, %s::date, %s, %s, %s::int8multirange, %s);

-- name: add_to_totals
WITH added AS (
    SELECT trader_id, epoch, sum(rows) AS rows, sum(merged) AS merged
    FROM risk_seal WHERE run = %(number)s GROUP BY trader_id, epoch
), covered AS (
    SELECT trader_id, epoch, range_agg(part) AS covered
    FROM risk_seal, unnest(covered) AS part WHERE run = %(number)s GROUP BY trader_id, epoch
)
INSERT INTO risk_epoch_total AS total (trader_id, epoch, rows, merged, covered)
SELECT trader_id, epoch, rows, merged, covered FROM added JOIN covered USING (trader_id, epoch)
ORDER BY trader_id, epoch
ON CONFLICT (trader_id, epoch) DO UPDATE SET
    rows = total.rows + excluded.rows, merged = total.merged + excluded.merged,
    covered = total.covered + excluded.covered;

-- name: add_run
WITH leaf AS (
    SELECT count(*) AS leaves, coalesce(sum(rows), 0)::bigint AS rows,
           sha256(coalesce(string_agg(
               sha256(record_send(ROW(
                   run, convert_to(trader_id, %(encoding)s), epoch, day, rows, merged, covered::text, digest
               ))), ''::bytea ORDER BY trader_id, epoch, day
           ), '')) AS digest
    FROM risk_seal WHERE run = %(number)s
), run AS (
    SELECT %(version)s::int AS version, %(number)s::bigint AS number, 'sealed'::text AS kind,
           coalesce(%(from)s::timestamptz, '-infinity') AS from_at, %(until)s::timestamptz AS until_at, leaves, rows,
           digest, (SELECT head FROM risk_seal_run WHERE number = %(number)s - 1) AS previous
    FROM leaf
)
INSERT INTO risk_seal_run (version, number, kind, from_at, until_at, leaves, rows, digest, previous, head)
SELECT version, number, kind, from_at, until_at, leaves, rows, digest, previous,
       sha256(record_send(ROW(version, number, kind, from_at, until_at, leaves, rows, digest, previous)))
FROM run
RETURNING head;

-- name: runs
-- Each run of the chain, and whether its head is that of its columns.
SELECT number, version, kind, CASE WHEN from_at BETWEEN '2000-01-01Z' AND '9999-12-30Z' THEN from_at END,
       least(greatest(until_at, '2000-01-01Z'), '9999-12-30Z'), leaves, rows, digest, previous, head,
       head = sha256(record_send(ROW(version, number, kind, from_at, until_at, leaves, rows, digest, previous)))
FROM risk_seal_run
WHERE number >= %(first)s
ORDER BY number;

-- name: run_at
-- The run that a moment falls into, or the next one.
SELECT min(number) FROM risk_seal_run WHERE until_at > %(since)s;

-- name: sums_of_leaves
-- What the leaves of each run come to.
SELECT run, count(*), sum(rows)::bigint,
       sha256(string_agg(
           sha256(record_send(ROW(
               run, convert_to(trader_id, %(encoding)s), epoch, day, rows, merged, covered::text, digest
           ))), ''::bytea ORDER BY trader_id, epoch, day
       ))
FROM risk_seal
WHERE run >= %(first)s
GROUP BY run
ORDER BY run;

-- name: sealed_leaves
-- The leaves of a run, as they were sealed.
SELECT trader_id, epoch, to_char(day, 'YYYY-MM-DD'), rows, merged, covered::text, digest
FROM risk_seal
WHERE run = %(number)s AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
ORDER BY trader_id, epoch, day;

-- name: less
-- What of some seq numbers is not among others.
SELECT (%(some)s::int8multirange - %(others)s::int8multirange)::text;

-- name: wrong_totals
-- Where the running totals are not the sum of the leaves: (trader, epoch, rows of the total, rows of the leaves).
WITH sums AS (
    SELECT trader_id, epoch, sum(rows) AS rows, sum(merged) AS merged
    FROM risk_seal WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s GROUP BY trader_id, epoch
), covers AS (
    SELECT trader_id, epoch, range_agg(part) AS covered
    FROM risk_seal, unnest(covered) AS part
    WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s GROUP BY trader_id, epoch
), leaf AS (
    SELECT * FROM sums LEFT JOIN covers USING (trader_id, epoch)
)
SELECT trader_id, epoch, coalesce(total.rows, 0), coalesce(leaf.rows, 0)::bigint
FROM (
    SELECT * FROM risk_epoch_total WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
) AS total FULL JOIN leaf USING (trader_id, epoch)
WHERE (total.rows, total.merged, total.covered) IS DISTINCT FROM (leaf.rows, leaf.merged, leaf.covered)
ORDER BY trader_id, epoch;
