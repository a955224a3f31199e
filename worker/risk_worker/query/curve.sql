-- name: curve
-- starts: of the days, so that each is divided from its beginning, however many hours it has.
SELECT DISTINCT ON (bucket)
       bucket,
       count(*) OVER snapshots AS snapshots,
       first_value(current_equity) OVER snapshots AS open_equity,
       max(current_equity) OVER snapshots AS high_equity,
       min(current_equity) OVER snapshots AS low_equity,
       last_value(current_equity) OVER snapshots AS close_equity,
       last_value(peak_equity) OVER snapshots AS peak_equity,
       max(drawdown_pct) OVER snapshots AS worst_drawdown_pct,
       last_value(daily_pnl) OVER snapshots AS daily_pnl,
       bool_or(trading_paused) OVER snapshots AS paused
FROM (
    SELECT date_bin(
               %(stride)s::interval, recorded_at,
               (%(starts)s::timestamptz[])[width_bucket(recorded_at, %(starts)s::timestamptz[])]
           ) AS bucket, *
    FROM risk_state_history
    WHERE trader_id = %(trader)s
      AND recorded_at >= %(since)s::timestamptz
      AND recorded_at < coalesce(%(until)s::timestamptz, 'infinity')
) AS history
WINDOW snapshots AS (
    PARTITION BY bucket ORDER BY recorded_at, epoch, seq
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
)
ORDER BY bucket;
