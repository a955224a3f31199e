-- name: pauses
-- For each trader history is read by the key from the last row before `since` that is not paused up to the
-- first one from `until` on that is not, so that the pauses at both ends are whole. Where `paused` changes,
-- a pause begins or ends; the change after a beginning is its end.
SELECT each.trader_id, change.since, change.until,
       extract(epoch FROM coalesce(change.until, now()) - change.since)::float8 AS lasted_s,
       change.reason, change.trace_id, change.paused_until, change.daily_pnl, change.drawdown_pct,
       change.current_equity, change.epoch, change.seq
FROM risk_state AS each
CROSS JOIN LATERAL (
    SELECT coalesce(
               (
                   SELECT recorded_at FROM risk_state_history
                   WHERE trader_id = each.trader_id AND NOT trading_paused
                     AND recorded_at < %(since)s::timestamptz
                   ORDER BY recorded_at DESC, epoch DESC, seq DESC
                   LIMIT 1
               ), '-infinity'
           ) AS first,
           coalesce(
               (
                   SELECT recorded_at FROM risk_state_history
                   WHERE trader_id = each.trader_id AND NOT trading_paused
                     AND recorded_at >= coalesce(%(until)s::timestamptz, 'infinity')
                   ORDER BY recorded_at, epoch, seq
                   LIMIT 1
               ), 'infinity'
           ) AS last
    OFFSET 0  -- the two times as values, by which compressed chunks leave out what they need not decompress
) AS span
CROSS JOIN LATERAL (
    SELECT trading_paused, recorded_at AS since,
           lead(recorded_at) OVER (ORDER BY recorded_at, epoch, seq) AS until,
           reason, trace_id, paused_until, daily_pnl, drawdown_pct, current_equity, epoch, seq
    FROM (
        SELECT *, lag(trading_paused, 1, false) OVER (ORDER BY recorded_at, epoch, seq) AS before
        FROM risk_state_history
        WHERE trader_id = each.trader_id AND recorded_at >= span.first AND recorded_at <= span.last
    ) AS history
    WHERE trading_paused <> before
) AS change
WHERE change.trading_paused
  AND (%(trader)s::text IS NULL OR each.trader_id = %(trader)s)
  AND change.since < coalesce(%(until)s::timestamptz, 'infinity')
  AND (change.until IS NULL OR change.until > %(since)s::timestamptz)
ORDER BY each.trader_id, change.since;
