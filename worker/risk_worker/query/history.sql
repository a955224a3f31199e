-- name: history
-- The key, read backwards: a LIMIT reads no more than it says.
SELECT trader_id, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused,
       paused_until, last_reset_time, reason, trace_id, epoch, seq, merged, stored_at
FROM risk_state_history
WHERE trader_id = %(trader)s
  AND recorded_at >= coalesce(%(since)s::timestamptz, '-infinity')
  AND recorded_at < coalesce(%(until)s::timestamptz, 'infinity')
ORDER BY recorded_at DESC, epoch DESC, seq DESC
LIMIT %(last)s::bigint;
