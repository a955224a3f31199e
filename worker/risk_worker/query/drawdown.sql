-- name: drawdown
-- Each trader's day by the key, and of it the one row.
SELECT worst.*
FROM risk_state AS each
CROSS JOIN LATERAL (
    SELECT trader_id, drawdown_pct, recorded_at, current_equity, peak_equity, daily_pnl, trading_paused,
           reason, trace_id, epoch, seq
    FROM risk_state_history
    WHERE trader_id = each.trader_id
      AND recorded_at >= %(since)s::timestamptz
      AND recorded_at < %(until)s::timestamptz
    ORDER BY drawdown_pct DESC, recorded_at, epoch, seq
    LIMIT 1
) AS worst
ORDER BY drawdown_pct DESC, trader_id
LIMIT %(top)s::bigint;
