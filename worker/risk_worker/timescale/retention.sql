-- What removing old history asks of Postgres. The entries of the chain are seal/expiry.py's.

-- name: days
-- UTC days of sealed rows that are due, see seal/seal.sql: last_expiry.
SELECT day FROM risk_seal WHERE day >= coalesce(%(since)s::date, '-infinity') AND day < %(before)s::date
UNION
SELECT day FROM risk_seal WHERE run > %(after)s AND day < %(since)s::date
ORDER BY day;

-- name: remove
-- The sealed rows of what an entry expires, found by the key through its leaves. Returns how many there were, and which
-- ranges of the index by stored_at (32 pages each) they lay in.
WITH leaf AS (
    SELECT trader_id, day FROM risk_seal
    WHERE day >= coalesce(%(since)s::date, '-infinity') AND day < %(before)s::date
    UNION ALL
    SELECT trader_id, day FROM risk_seal WHERE run > %(after)s AND day < %(since)s::date
), expired AS (
    SELECT trader_id, min(day)::timestamp AT TIME ZONE 'UTC' AS first FROM leaf GROUP BY trader_id
), gone AS (
    DELETE FROM risk_state_history AS history USING expired
    WHERE history.trader_id = expired.trader_id AND recorded_at >= first
      AND recorded_at < %(before)s::date::timestamp AT TIME ZONE 'UTC' AND stored_at < %(sealed_until)s
    RETURNING history.ctid
)
SELECT count(*), coalesce(array_agg(DISTINCT (ctid::text::point)[0]::bigint / 32 * 32), '{}') FROM gone;

-- name: forget_ranges
-- New rows take the pages of the removed ones, so the index by stored_at has to forget what lay there. A range that it
-- knows nothing of is read in vain, until the next VACUUM has looked at it.
SELECT count(brin_desummarize_range('risk_state_history_stored_at', page)) FROM unnest(%(pages)s::bigint[]) AS page;

-- name: cuts
-- requires: timescaledb
-- UTC days at whose beginning no chunk is cut in two: where one begins or ends, and the last day of all, if it is such a one.
WITH chunk AS (
    SELECT range_start, range_end FROM timescaledb_information.chunks
    WHERE (hypertable_schema, hypertable_name) = (
        SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = 'risk_state_history'::regclass
    )
), cut AS (
    SELECT range_start AS moment FROM chunk
    UNION SELECT range_end FROM chunk
    UNION SELECT %(before)s::date::timestamp AT TIME ZONE 'UTC'
)
SELECT DISTINCT (moment AT TIME ZONE 'UTC')::date FROM cut
WHERE moment <= %(before)s::date::timestamp AT TIME ZONE 'UTC' AND (moment AT TIME ZONE 'UTC')::time = '00:00'
  AND NOT EXISTS (SELECT FROM chunk WHERE range_start < moment AND moment < range_end)
ORDER BY 1;

-- name: chunks_before
-- requires: timescaledb
-- Chunks with rows of before a day, and whether all of one's are.
SELECT chunk_schema::text, chunk_name::text, range_start, range_end,
       range_end <= %(before)s::date::timestamp AT TIME ZONE 'UTC'
FROM timescaledb_information.chunks
WHERE (hypertable_schema, hypertable_name) = (
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = 'risk_state_history'::regclass
) AND range_start < %(before)s::date::timestamp AT TIME ZONE 'UTC'
ORDER BY range_end;

-- name: rows_between
-- (rows that are sealed, rows that are not).
SELECT count(*) FILTER (WHERE stored_at < %(sealed_until)s), count(*) FILTER (WHERE stored_at >= %(sealed_until)s)
FROM risk_state_history WHERE recorded_at >= %(start)s AND recorded_at < %(end)s;

-- name: make_room_for_unsealed
CREATE TEMP TABLE unsealed (LIKE risk_state_history) ON COMMIT DROP;

-- name: take_unsealed
INSERT INTO unsealed
SELECT * FROM risk_state_history
WHERE recorded_at >= %(start)s AND recorded_at < %(end)s AND stored_at >= %(sealed_until)s;

-- name: put_unsealed_back
INSERT INTO risk_state_history SELECT * FROM unsealed;

-- name: drop_between
-- requires: timescaledb
SELECT drop_chunks('risk_state_history', older_than => %(end)s::timestamptz, newer_than => %(start)s::timestamptz);

-- name: let_much_be_decompressed
-- requires: timescaledb
-- Rows are removed one by one only of a chunk of which some are to stay.
SELECT set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);

-- name: schema_of_extension
SELECT nspname::text FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'timescaledb';
