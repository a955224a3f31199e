-- What sealing and its verification ask of Postgres. How the digests are made stands in docs/audit.md too, for an
-- auditor who trusts none of this; a test compares the two.

-- name: clock
SELECT clock_timestamp();

-- name: end_of_chain
-- (last number, how far history is sealed, how far it is closed). NULL: not at all. A time that no sealer writes, which
-- Python does not have either, is the next that it has.
SELECT (SELECT max(number) FROM risk_seal_run),
       (SELECT CASE WHEN until_at > '-infinity' THEN least(greatest(until_at, '2000-01-01Z'), '9999-12-30Z') END
        FROM risk_seal_run ORDER BY number DESC LIMIT 1),
       (SELECT CASE WHEN closed_until > '-infinity' THEN least(greatest(closed_until, '2000-01-01Z'), '9999-12-30Z') END
        FROM risk_seal_mark);

-- name: first_stored
-- A time that no calendar has is that of no worker; such a row is the first run's, or never sealed.
SELECT min(stored_at) FROM risk_state_history WHERE stored_at >= '2000-01-01Z' AND stored_at < %(until)s;

-- name: lock_chain
-- For who closes, seals, reopens or lets rows expire: one at a time. It is in no writer's way.
LOCK TABLE risk_seal_mark IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;

-- name: set_lock_timeout
-- Until the end of the transaction.
SELECT set_config('lock_timeout', %(timeout)s, true);

-- name: wait_for_chain
LOCK TABLE risk_seal_mark IN SHARE UPDATE EXCLUSIVE MODE;

-- name: writers
-- The transactions that have inserted: risk_refuse_closed() gave each this lock.
SELECT virtualtransaction, pid FROM pg_locks
WHERE locktype = 'relation' AND relation = 'risk_seal_mark'::regclass AND mode = 'RowShareLock' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: close
UPDATE risk_seal_mark SET closed_until = greatest(closed_until, %(until)s);

-- name: reopen
UPDATE risk_seal_mark
SET closed_until = coalesce((SELECT until_at FROM risk_seal_run ORDER BY number DESC LIMIT 1), '-infinity')
RETURNING CASE WHEN closed_until > '-infinity' THEN least(greatest(closed_until, '2000-01-01Z'), '9999-12-30Z') END;

-- name: undo_runs
-- Adds the entry that undoes the runs which end after a time; no row: there are none.
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
), undone AS (
    SELECT min(from_at) AS until_at, sum(leaves)::bigint AS leaves, sum(rows)::bigint AS rows
    FROM risk_seal_run AS run
    WHERE kind = 'sealed' AND until_at > %(now)s
      AND NOT EXISTS (SELECT FROM reopened WHERE reopened.number > run.number AND reopened.until_at <= run.from_at)
    HAVING count(*) > 0
), run AS (
    SELECT %(version)s::int AS version, number + 1 AS number, 'reopened'::text AS kind, last.until_at AS from_at,
           undone.until_at, NULL::date AS expired_until, undone.leaves, undone.rows, sha256('') AS digest,
           head AS previous
    FROM undone, (SELECT number, until_at, head FROM risk_seal_run ORDER BY number DESC LIMIT 1) AS last
)
INSERT INTO risk_seal_run (version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, head)
SELECT version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, sha256(record_send(ROW(
           version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous
       )))
FROM run
RETURNING number;

-- name: total_anew
-- The totals of each epoch of which a run was undone by an entry: the sum of the leaves that count.
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
), run AS (
    SELECT number,
           max(expired_until) OVER (ORDER BY number DESC) AS expired_until,
           (SELECT min(reopened.number) FROM reopened
            WHERE reopened.number > run.number AND reopened.until_at <= run.from_at) AS undone_by
    FROM risk_seal_run AS run
), concerned AS (
    SELECT DISTINCT trader_id, epoch FROM risk_seal JOIN run ON number = run WHERE undone_by = %(number)s
), leaf AS (
    SELECT trader_id, epoch, day, rows, merged, covered, day < expired_until AS gone
    FROM risk_seal JOIN concerned USING (trader_id, epoch) JOIN run ON number = run
    WHERE undone_by IS NULL
), sums AS (
    SELECT trader_id, epoch, sum(rows) AS rows, sum(merged) AS merged, sum(rows) FILTER (WHERE gone) AS expired
    FROM leaf GROUP BY trader_id, epoch
), covers AS (
    SELECT trader_id, epoch, range_agg(part) AS covered FROM leaf, unnest(covered) AS part GROUP BY trader_id, epoch
)
UPDATE risk_epoch_total AS total
SET rows = coalesce(sums.rows, 0), merged = coalesce(sums.merged, 0), expired = coalesce(sums.expired, 0),
    covered = coalesce(covers.covered, '{}')
FROM concerned LEFT JOIN sums USING (trader_id, epoch) LEFT JOIN covers USING (trader_id, epoch)
WHERE (total.trader_id, total.epoch) = (concerned.trader_id, concerned.epoch);

-- name: last_expiry
-- The last entry that let rows expire, and the UTC day before which; no row: there is none. Entries name later and later
-- days. So what is due now are leaves of that day or later, and of earlier days those of later runs alone.
SELECT number, expired_until FROM risk_seal_run WHERE kind = 'expired' ORDER BY number DESC LIMIT 1;

-- name: expire
-- Adds to the totals what of the leaves is due (see last_expiry) and was recorded before a day. Returns how many leaves, and
-- how many rows.
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
), leaf AS (
    SELECT run, trader_id, epoch, rows FROM risk_seal
    WHERE day >= coalesce(%(since)s::date, '-infinity') AND day < %(before)s::date
    UNION ALL
    SELECT run, trader_id, epoch, rows FROM risk_seal WHERE run > %(after)s AND day < %(since)s::date
), gone AS (
    SELECT trader_id, epoch, count(*) AS leaves, sum(leaf.rows) AS rows
    FROM leaf JOIN risk_seal_run AS run ON number = leaf.run
    WHERE NOT EXISTS (
        SELECT FROM reopened WHERE reopened.number > run.number AND reopened.until_at <= run.from_at
    )
    GROUP BY trader_id, epoch
), added AS (
    UPDATE risk_epoch_total AS total SET expired = expired + gone.rows
    FROM gone WHERE (total.trader_id, total.epoch) = (gone.trader_id, gone.epoch)
)
SELECT coalesce(sum(leaves), 0)::bigint, coalesce(sum(rows), 0)::bigint FROM gone;

-- name: add_expiry
WITH run AS (
    SELECT %(version)s::int AS version, number + 1 AS number, 'expired'::text AS kind, until_at AS from_at, until_at,
           %(before)s::date AS expired_until, %(leaves)s::bigint AS leaves, %(rows)s::bigint AS rows,
           sha256('') AS digest, head AS previous
    FROM risk_seal_run ORDER BY risk_seal_run.number DESC LIMIT 1
)
INSERT INTO risk_seal_run (version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, head)
SELECT version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, sha256(record_send(ROW(
           version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous
       )))
FROM run
RETURNING number;

-- name: add_drop
INSERT INTO risk_seal_drop
    (run, stream, entry_id, trader_id, epoch, first_seq, last_seq, reason, dropped_by, digest)
VALUES (
    %(run)s, %(stream)s, %(entry_id)s, %(trader_id)s, %(epoch)s, %(first_seq)s, %(last_seq)s, %(reason)s, %(dropped_by)s,
    %(digest)s
);

-- name: add_dropped
-- The entry over the dead letters that were written under its number. It ends where the entry before ends.
WITH dropped AS (
    SELECT count(*) AS leaves, coalesce(sum(last_seq - first_seq + 1), 0)::bigint AS rows,
           sha256(coalesce(string_agg(
               sha256(record_send(ROW(
                   run, convert_to(stream, %(encoding)s), convert_to(entry_id, %(encoding)s),
                   convert_to(trader_id, %(encoding)s), epoch, first_seq, last_seq, convert_to(reason, %(encoding)s),
                   convert_to(dropped_by, %(encoding)s), convert_to(database_user, %(encoding)s), digest
               ))), ''::bytea ORDER BY stream, entry_id
           ), '')) AS digest
    FROM risk_seal_drop WHERE run = %(number)s
), last AS (
    SELECT until_at, head FROM risk_seal_run ORDER BY number DESC LIMIT 1
), run AS (
    SELECT %(version)s::int AS version, %(number)s::bigint AS number, 'dropped'::text AS kind,
           coalesce(last.until_at, '-infinity') AS from_at, coalesce(last.until_at, '-infinity') AS until_at,
           NULL::date AS expired_until, leaves, rows, digest, last.head AS previous
    FROM dropped LEFT JOIN last ON true
)
INSERT INTO risk_seal_run (version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, head)
SELECT version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, sha256(record_send(ROW(
           version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous
       )))
FROM run;

-- name: drops
-- number: of one entry; trader: of one. NULL: all.
SELECT run, stream, entry_id, trader_id, epoch, first_seq, last_seq, reason, dropped_by, risk_seal_drop.digest,
       database_user, sealed_at
FROM risk_seal_drop LEFT JOIN risk_seal_run ON number = run
WHERE (%(number)s::bigint IS NULL OR run = %(number)s) AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
ORDER BY run, stream, entry_id;

-- name: row_beyond
-- When the row after the first so many of a span was stored; no row: there are not so many.
SELECT greatest(stored_at, '2000-01-01Z') FROM risk_state_history
WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s
ORDER BY stored_at OFFSET %(rows)s LIMIT 1;

-- name: first_in
SELECT greatest(min(stored_at), '2000-01-01Z') FROM risk_state_history
WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s;

-- name: leaves
-- The leaves of runs, from the rows, each with the place of its run; of a run that was undone, from those alone that it had.
-- ends: where each of the runs but the last ends. Text goes through convert_to, because what record_send writes of a
-- text follows the client's encoding. encoding: UTF8; SQL_ASCII in a database of that name, which may hold any bytes.
SELECT place, trader_id, epoch, to_char(day, 'YYYY-MM-DD'), count(*), sum(merged)::bigint, range_agg(covered)::text,
       sha256(string_agg(digest, ''::bytea ORDER BY seq, recorded_at))
FROM (
    SELECT width_bucket(stored_at, %(ends)s::timestamptz[]) AS place, trader_id, epoch, (recorded_at AT TIME ZONE 'UTC')::date AS day, seq, recorded_at, merged,
           int8range(seq - merged, least(seq, 9223372036854775806) + 1) AS covered,
           sha256(record_send(ROW(
               convert_to(trader_id, %(encoding)s), recorded_at, epoch, seq, convert_to(trace_id, %(encoding)s),
               convert_to(reason, %(encoding)s), daily_pnl, drawdown_pct, current_equity, peak_equity,
               trading_paused, paused_until, last_reset_time, merged, stored_at
           ))) AS digest
    FROM risk_state_history
    WHERE stored_at >= coalesce(%(from)s::timestamptz, '-infinity') AND stored_at < %(until)s
      AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
      AND (%(undone)s::bigint IS NULL OR EXISTS (
          SELECT FROM risk_seal AS sealed
          WHERE run = %(undone)s AND sealed.trader_id = risk_state_history.trader_id
            AND sealed.epoch = risk_state_history.epoch AND day = (recorded_at AT TIME ZONE 'UTC')::date
            AND least(seq, 9223372036854775806) <@ sealed.covered
      ))
) AS history
GROUP BY place, trader_id, epoch, day;

-- name: add_leaves
COPY risk_seal (run, trader_id, epoch, day, rows, merged, covered, digest) FROM STDIN;

-- name: add_to_totals
-- The leaves of runs from a number on.
WITH added AS (
    SELECT trader_id, epoch, sum(rows) AS rows, sum(merged) AS merged
    FROM risk_seal WHERE run >= %(first)s GROUP BY trader_id, epoch
), covered AS (
    SELECT trader_id, epoch, range_agg(part) AS covered
    FROM risk_seal, unnest(covered) AS part WHERE run >= %(first)s GROUP BY trader_id, epoch
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
           coalesce(%(from)s::timestamptz, '-infinity') AS from_at, %(until)s::timestamptz AS until_at,
           NULL::date AS expired_until, leaves, rows, digest,
           (SELECT head FROM risk_seal_run WHERE number = %(number)s - 1) AS previous
    FROM leaf
)
INSERT INTO risk_seal_run (version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, head)
SELECT version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous, sha256(record_send(ROW(
           version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous
       )))
FROM run
RETURNING head;

-- name: runs
-- Entries of the chain, from a number on, whether the head is that of the columns, and which entry undid it. wanted: these
-- alone; NULL: each.
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
)
SELECT number, version, kind, CASE WHEN from_at BETWEEN '2000-01-01Z' AND '9999-12-30Z' THEN from_at END,
       CASE WHEN until_at > '-infinity' THEN least(greatest(until_at, '2000-01-01Z'), '9999-12-30Z') END,
       expired_until::text, leaves, rows, digest, previous, head,
       head = sha256(record_send(ROW(
           version, number, kind, from_at, until_at, expired_until, leaves, rows, digest, previous
       ))),
       CASE WHEN kind = 'sealed' THEN (
           SELECT min(reopened.number) FROM reopened
           WHERE reopened.number > run.number AND reopened.until_at <= run.from_at
       ) END
FROM risk_seal_run AS run
WHERE number >= %(first)s AND (%(wanted)s::bigint[] IS NULL OR number = ANY(%(wanted)s))
ORDER BY number
LIMIT %(limit)s;

-- name: run_at
-- The run that a moment falls into, or the next one.
SELECT min(number) FROM risk_seal_run WHERE kind = 'sealed' AND until_at > %(since)s;

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

-- name: sums_of_drops
-- What the dead letters of each entry "dropped" come to.
SELECT run, count(*), coalesce(sum(last_seq - first_seq + 1), 0)::bigint,
       sha256(string_agg(
           sha256(record_send(ROW(
               run, convert_to(stream, %(encoding)s), convert_to(entry_id, %(encoding)s),
               convert_to(trader_id, %(encoding)s), epoch, first_seq, last_seq, convert_to(reason, %(encoding)s),
               convert_to(dropped_by, %(encoding)s), convert_to(database_user, %(encoding)s), digest
           ))), ''::bytea ORDER BY stream, entry_id
       ))
FROM risk_seal_drop
WHERE run >= %(first)s
GROUP BY run;

-- name: sealed_leaves
-- The leaves of some runs, as they were sealed, and whether they have expired since.
WITH run AS (
    SELECT number, max(expired_until) OVER (ORDER BY number DESC) AS expired_until
    FROM risk_seal_run WHERE number >= %(first)s
)
SELECT run, trader_id, epoch, to_char(day, 'YYYY-MM-DD'), rows, merged, covered::text, digest,
       coalesce(day < expired_until, false)
FROM risk_seal LEFT JOIN run ON number = run
WHERE run BETWEEN %(first)s AND %(last)s AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
ORDER BY run, trader_id, epoch, day;

-- name: expiries
-- Entries "expired": (number, day, rows). Days are counted from 2000-01-01.
SELECT number, least(expired_until, '9999-12-30') - date '2000-01-01', rows
FROM risk_seal_run WHERE kind = 'expired' ORDER BY number;

-- name: sealed_days
-- What was sealed before a day that has expired: (run, day, rows, which entry undid the run). Days as in expiries.
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
)
SELECT run, day - date '2000-01-01', sum(risk_seal.rows)::bigint, (
           SELECT min(reopened.number) FROM reopened JOIN risk_seal_run AS undone ON undone.number = run
           WHERE reopened.number > run AND reopened.until_at <= undone.from_at
       )
FROM risk_seal
WHERE day < (SELECT max(least(expired_until, '9999-12-30')) FROM risk_seal_run WHERE kind = 'expired')
GROUP BY run, day;

-- name: less
-- What of some seq numbers is not among others.
SELECT (%(some)s::int8multirange - %(others)s::int8multirange)::text;

-- name: rows_to_come
-- Rows of a time that has not come, which no run has, or has had before it was undone: (trader, epoch, rows, first and
-- last time). sealed_until: how far history is sealed.
WITH undone AS MATERIALIZED (
    SELECT number, from_at, until_at FROM risk_seal_run
    WHERE kind = 'sealed' AND rows > 0 AND until_at > greatest(%(now)s, %(sealed_until)s::timestamptz)
)
SELECT trader_id, epoch, count(*), to_json(min(stored_at) AT TIME ZONE 'UTC') #>> '{}',
       to_json(max(stored_at) AT TIME ZONE 'UTC') #>> '{}'
FROM risk_state_history AS history
WHERE stored_at >= greatest(%(now)s, %(sealed_until)s::timestamptz)
  AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
  AND NOT EXISTS (
      SELECT FROM undone JOIN risk_seal ON run = number
      WHERE stored_at >= from_at AND stored_at < until_at AND risk_seal.trader_id = history.trader_id
        AND risk_seal.epoch = history.epoch AND day = (recorded_at AT TIME ZONE 'UTC')::date
        AND least(seq, 9223372036854775806) <@ covered
  )
GROUP BY trader_id, epoch
ORDER BY trader_id, epoch;

-- name: knows
-- Whether anything is sealed or stored of a trader.
SELECT EXISTS (SELECT FROM risk_epoch_total WHERE trader_id = %(trader)s)
       OR EXISTS (SELECT FROM risk_state_history WHERE trader_id = %(trader)s);

-- name: wrong_totals
-- Where the running totals are not the sum of the leaves: (trader, epoch, rows of the total, rows of the leaves).
WITH reopened AS MATERIALIZED (
    SELECT number, until_at FROM risk_seal_run WHERE kind = 'reopened'
), run AS (
    SELECT number,
           max(expired_until) OVER (ORDER BY number DESC) AS expired_until,
           (SELECT min(reopened.number) FROM reopened
            WHERE reopened.number > run.number AND reopened.until_at <= run.from_at) AS undone_by
    FROM risk_seal_run AS run
), part AS (
    SELECT trader_id, epoch, rows, merged, covered, day < expired_until AS gone
    FROM risk_seal JOIN run ON number = run
    WHERE undone_by IS NULL AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
), sums AS (
    SELECT trader_id, epoch, sum(rows) AS rows, sum(merged) AS merged,
           coalesce(sum(rows) FILTER (WHERE gone), 0) AS expired
    FROM part GROUP BY trader_id, epoch
), covers AS (
    SELECT trader_id, epoch, range_agg(piece) AS covered
    FROM part, unnest(covered) AS piece GROUP BY trader_id, epoch
), leaf AS (
    SELECT * FROM sums LEFT JOIN covers USING (trader_id, epoch)
)
SELECT trader_id, epoch, coalesce(total.rows, 0), coalesce(leaf.rows, 0)::bigint
FROM (
    SELECT * FROM risk_epoch_total WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
) AS total FULL JOIN leaf USING (trader_id, epoch)
WHERE (coalesce(total.rows, 0), coalesce(total.merged, 0), coalesce(total.expired, 0), coalesce(total.covered, '{}'))
      IS DISTINCT FROM
      (coalesce(leaf.rows, 0), coalesce(leaf.merged, 0), coalesce(leaf.expired, 0), coalesce(leaf.covered, '{}'))
ORDER BY trader_id, epoch;
