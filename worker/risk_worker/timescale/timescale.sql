-- What `riskstream timescale` asks of Postgres, and changes there. What needs
-- TimescaleDB is marked.

-- name: make_hypertable
SELECT risk_history_to_hypertable();

-- name: owner
-- (who owns history, and may that role log in).
SELECT rolname::text, rolcanlogin FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
WHERE pg_class.oid = 'risk_state_history'::regclass;

-- name: as_owner
-- For this transaction: what is made belongs to the owner of history.
SELECT set_config('role', rolname, true) FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
WHERE pg_class.oid = 'risk_state_history'::regclass AND rolname <> current_user;

-- name: oldest_day
-- The first UTC day of sealed rows that are not known to be gone; what came late for earlier ones is left out.
SELECT min(day) FROM risk_seal WHERE day >= coalesce(%(since)s::date, '-infinity') AND day < %(before)s::date;

-- name: hypertable
-- requires: timescaledb
-- (length of a chunk, chunks, of these compressed, the first's beginning and the last's end, as UTC days).
SELECT time_interval, count(chunk_name), count(*) FILTER (WHERE is_compressed),
       to_char(min(range_start) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), to_char(max(range_end) AT TIME ZONE 'UTC', 'YYYY-MM-DD')
FROM timescaledb_information.dimensions
LEFT JOIN timescaledb_information.chunks USING (hypertable_schema, hypertable_name)
WHERE (hypertable_schema, hypertable_name) = (
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = 'risk_state_history'::regclass
) AND dimension_number = 1
GROUP BY time_interval;

-- name: columnstore
-- requires: timescaledb
-- (segmentby, orderby, the columns with a minimum and maximum for each batch). No row: it is off.
SELECT coalesce(segmentby, ''), coalesce(orderby, ''), ARRAY(
    SELECT each->>'column' FROM jsonb_array_elements(coalesce(index, '[]')) AS each WHERE each->>'type' = 'minmax'
)
FROM timescaledb_information.hypertable_columnstore_settings
WHERE hypertable = 'risk_state_history'::regclass AND (segmentby, orderby) IS DISTINCT FROM (NULL, NULL);

-- name: turn_columnstore_on
-- requires: timescaledb
-- In this order late rows and replays meet few batches; by stored_at seals find their rows.
ALTER TABLE risk_state_history SET (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'trader_id',
    timescaledb.orderby = 'recorded_at DESC, epoch DESC, seq DESC',
    timescaledb.sparse_index = 'minmax(stored_at)'
);

-- name: sizes
-- requires: timescaledb
-- Bytes of what is compressed now: (before, after).
SELECT coalesce(sum(before_compression_total_bytes), 0)::bigint, coalesce(sum(after_compression_total_bytes), 0)::bigint
FROM hypertable_columnstore_stats('risk_state_history');

-- name: chunks_without_stored_at
-- requires: timescaledb
-- Compressed chunks that have to be decompressed to find what was stored when.
SELECT count(*) FROM timescaledb_information.chunk_columnstore_settings
WHERE hypertable = 'risk_state_history'::regclass
  AND NOT coalesce(index, '[]') @> '[{"type": "minmax", "column": "stored_at"}]';

-- name: add_compression_policy
-- requires: timescaledb
SELECT add_compression_policy('risk_state_history', compress_after => %(after)s::interval);

-- name: remove_compression_policy
-- requires: timescaledb
SELECT remove_compression_policy('risk_state_history', if_exists => true);

-- name: jobs
-- requires: timescaledb
-- The policies of history and of its aggregates: (job, kind, of what, after or start offset, does it run, has its last
-- run failed). No offset: from the beginning.
SELECT jobs.job_id, proc_name::text, jobs.hypertable_name::text,
       coalesce(config->>'compress_after', config->>'start_offset')::interval, scheduled,
       coalesce(last_run_status = 'Failed', false)
FROM timescaledb_information.jobs LEFT JOIN timescaledb_information.job_stats ON job_stats.job_id = jobs.job_id
WHERE proc_name IN ('policy_compression', 'policy_refresh_continuous_aggregate')
  AND jobs.hypertable_schema = (
    SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = 'risk_state_history'::regclass
) AND jobs.hypertable_name IN ('risk_state_history', 'risk_hourly', 'risk_daily')
ORDER BY jobs.job_id;

-- name: set_compress_after
-- requires: timescaledb
SELECT alter_job(job_id, config => config || jsonb_build_object('compress_after', %(after)s::interval::text))
FROM timescaledb_information.jobs WHERE job_id = %(job)s;

-- name: set_start_offset
-- requires: timescaledb
-- offset: NULL: from the beginning.
SELECT alter_job(job_id, config => config || jsonb_build_object('start_offset', %(offset)s::interval::text))
FROM timescaledb_information.jobs WHERE job_id = %(job)s;

-- name: add_refresh_policy
-- requires: timescaledb
-- The oldest first: what is newer than the newest refreshed bucket is read from the rows, and what is older is not.
SELECT add_continuous_aggregate_policy(
    %(aggregate)s::regclass, start_offset => %(offset)s::interval, end_offset => %(bucket)s::interval,
    schedule_interval => %(every)s::interval, refresh_newest_first => false
);

-- name: aggregates
-- requires: timescaledb
-- Which of the two are continuous.
SELECT view_name::text FROM timescaledb_information.continuous_aggregates
WHERE view_name IN ('risk_hourly', 'risk_daily') AND (hypertable_schema, hypertable_name) = (
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = 'risk_state_history'::regclass
);

-- name: kept_of_view
-- Its comment, and its grants to others than its owner, as statements.
SELECT format('COMMENT ON VIEW %%s IS %%L', pg_class.oid::regclass, obj_description(pg_class.oid, 'pg_class'))
FROM pg_class WHERE pg_class.oid = %(view)s::regclass
UNION ALL
SELECT format(
    'GRANT %%s ON %%s TO %%s%%s', acl.privilege_type, pg_class.oid::regclass,
    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
    CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class, aclexplode(relacl) AS acl
WHERE pg_class.oid = %(view)s::regclass AND acl.grantee <> relowner;

-- name: make_hourly_continuous
-- requires: timescaledb
-- In place of the view of the migrations, with its columns.
DROP VIEW risk_hourly;
CREATE MATERIALIZED VIEW risk_hourly WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    trader_id,
    time_bucket(interval '1 hour', recorded_at) AS bucket,
    (min(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity
    ]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[5] AS daily_pnl,
    count(*) FILTER (WHERE trading_paused)::double precision / count(*) AS paused_share,
    count(*) AS snapshots
FROM risk_state_history
GROUP BY trader_id, time_bucket(interval '1 hour', recorded_at)
WITH NO DATA;

-- name: make_daily_continuous
-- requires: timescaledb
-- In place of the view of the migrations, with its columns.
DROP VIEW risk_daily;
CREATE MATERIALIZED VIEW risk_daily WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    trader_id,
    time_bucket(interval '1 day', recorded_at) AS bucket,
    (min(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity
    ]))[4] AS open,
    max(current_equity) AS high,
    min(current_equity) AS low,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[4] AS close,
    max(drawdown_pct) AS worst_drawdown_pct,
    (max(ARRAY[
        date_part('epoch', recorded_at - '2000-01-01 00:00:00+00'::timestamptz), epoch, seq, current_equity, daily_pnl
    ]))[5] AS daily_pnl,
    count(*) FILTER (WHERE trading_paused)::double precision / count(*) AS paused_share,
    count(*) AS snapshots
FROM risk_state_history
GROUP BY trader_id, time_bucket(interval '1 day', recorded_at)
WITH NO DATA;
