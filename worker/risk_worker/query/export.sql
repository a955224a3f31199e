-- name: export
-- Trader by trader, each by the key, so that the first rows come at once and nothing is sorted.
SELECT snapshot.*
FROM risk_state AS each
CROSS JOIN LATERAL (
    SELECT trader_id, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused,
           paused_until, last_reset_time, reason, trace_id, epoch, seq, merged, stored_at
    FROM risk_state_history
    WHERE trader_id = each.trader_id
      AND recorded_at >= coalesce(%(since)s::timestamptz, '-infinity')
      AND recorded_at < coalesce(%(until)s::timestamptz, 'infinity')
    ORDER BY recorded_at, epoch, seq
) AS snapshot
WHERE %(trader)s::text IS NULL OR each.trader_id = %(trader)s
ORDER BY each.trader_id;
