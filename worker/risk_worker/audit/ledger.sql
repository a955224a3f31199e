-- What the ledger asks of Postgres. trader: of one trader alone; NULL: of all. Of what is sealed the running totals are
-- read and no row; since: from when on history is read.

-- name: sealed
-- (how far history is sealed, before which time of recording rows have expired), as texts that Postgres reads.
SELECT to_json(coalesce((SELECT until_at FROM risk_seal_run ORDER BY number DESC LIMIT 1), '-infinity')) #>> '{}',
       to_json((SELECT max(expired_until)::timestamp AT TIME ZONE 'UTC' FROM risk_seal_run)) #>> '{}';

-- name: totals
SELECT trader_id, epoch, rows, merged, expired, covered::text FROM risk_epoch_total
WHERE rows > 0 AND (%(trader)s::text IS NULL OR trader_id = %(trader)s);

-- name: pieces
-- One pass over what is not sealed, without sorting it. A row covers the seq numbers (seq - merged - 1, seq]. Seen as a
-- step upwards from seq - merged - 1 to seq, the rows of a sound piece are one staircase from its lowest
-- beginning to its highest seq: each end but the highest is another's beginning. So the hashes of all ends
-- less those of all beginnings make hash(highest) - hash(lowest); a gap or an overlap, or many of both, leave
-- hashes that do not cancel out. An epoch is cut into pieces of 2^piece_bits seq numbers, so that where it is
-- not sound, few rows have to be sorted.
SELECT trader_id, epoch, seq >> %(piece_bits)s::int, count(*), sum(merged), min(seq - merged - 1), max(seq),
       min(recorded_at),
       sum(hashint8extended(seq, 0)) - sum(hashint8extended(seq - merged - 1, 0))
       = hashint8extended(max(seq), 0)::numeric - hashint8extended(min(seq - merged - 1), 0)
FROM risk_state_history
WHERE stored_at >= %(since)s::timestamptz AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
GROUP BY 1, 2, 3;

-- name: no_nested_loops
-- The planner does not know how much is in an array, and a scan for each of its elements would be quadratic.
SET LOCAL enable_nestloop = off;

-- name: rows_of_pieces
-- The rows of pieces that are not sound, in the order of their beginnings.
SELECT trader_id, epoch, seq - merged - 1, seq, recorded_at
FROM risk_state_history
JOIN unnest(%(traders)s::text[], %(epochs)s::bigint[], %(pieces)s::bigint[])
    AS wanted (trader_id, epoch, piece) USING (trader_id, epoch)
WHERE seq >> %(piece_bits)s::int = piece AND stored_at >= %(since)s::timestamptz
  AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
ORDER BY trader_id, epoch, seq - merged;

-- name: found_since
-- What the database has by now of the seq numbers that were missing.
WITH missing AS (
    SELECT * FROM unnest(
        %(traders)s::text[], %(epochs)s::bigint[], %(firsts)s::bigint[], %(lasts)s::bigint[]
    ) AS missing (trader_id, epoch, first, last)
)
SELECT trader_id, epoch, seq - merged, seq
FROM risk_state_history JOIN missing USING (trader_id, epoch)
WHERE seq >= first AND seq - merged <= last AND stored_at >= %(since)s::timestamptz
  AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
UNION ALL
SELECT trader_id, epoch, seq, seq
FROM risk_dead_letter JOIN missing USING (trader_id, epoch)
WHERE seq BETWEEN first AND last;

-- name: recorded_before
-- The highest seq of each epoch that was recorded before a time; by the newest row before it, so few rows are read.
SELECT wanted.trader_id, wanted.epoch, (
    SELECT seq FROM risk_state_history AS history
    WHERE history.trader_id = wanted.trader_id AND history.epoch = wanted.epoch AND recorded_at < %(since)s
    ORDER BY recorded_at DESC, seq DESC LIMIT 1
)
FROM unnest(%(traders)s::text[], %(epochs)s::bigint[]) AS wanted (trader_id, epoch);

-- name: dead_letters
-- No producer sends as much as 64 kB; of a payload that is larger nothing is read.
SELECT trader_id, epoch, seq, CASE WHEN octet_length(payload) <= 65536 THEN payload ELSE '' END
FROM risk_dead_letter
WHERE epoch IS NOT NULL AND seq IS NOT NULL
  AND (%(trader)s::text IS NULL OR trader_id IS NULL OR trader_id = %(trader)s);

-- name: unidentified
SELECT count(*) FROM risk_dead_letter
WHERE (epoch IS NULL OR seq IS NULL) AND %(trader)s::text IS NULL;

-- name: dropped
-- The seq numbers that dropped dead letters stood for, of those that an entry of the chain of seals names.
SELECT trader_id, epoch, range_agg(int8range(first_seq, last_seq + 1))::text
FROM risk_seal_drop JOIN risk_seal_run ON number = run AND kind = 'dropped'
WHERE last_seq IS NOT NULL AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
GROUP BY trader_id, epoch;

-- name: states
-- Each state beside the row of history that it claims to be: one look at the key each. And the trader's namespace.
SELECT trader_id, epoch, seq, recorded_at, history.stored_at IS NOT NULL,
       recorded_at < %(expired)s::timestamptz IS TRUE,
       (state.daily_pnl, state.drawdown_pct, state.current_equity, state.peak_equity,
        state.trading_paused, state.paused_until, state.last_reset_time, state.trace_id, state.reason)
       IS NOT DISTINCT FROM
           (history.daily_pnl, history.drawdown_pct, history.current_equity, history.peak_equity,
            history.trading_paused, history.paused_until, history.last_reset_time, history.trace_id,
            history.reason), state.namespace
FROM risk_state AS state
LEFT JOIN risk_state_history AS history USING (trader_id, recorded_at, epoch, seq)
WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s;

-- name: has_timescaledb
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');

-- name: horizon
-- requires: timescaledb
-- What was recorded before the oldest chunk is no longer retained; without a chunk, see the policy.
SELECT coalesce(
    (
        SELECT min(range_start) FROM timescaledb_information.chunks
        WHERE (quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name))::regclass
              = 'risk_state_history'::regclass
    ), (
        SELECT now() - max((config->>'drop_after')::interval) FROM timescaledb_information.jobs
        WHERE proc_name = 'policy_retention'
          AND (quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name))::regclass
              = 'risk_state_history'::regclass
    )
);
