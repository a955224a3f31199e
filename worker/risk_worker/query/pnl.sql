-- name: pnl
-- One look at the key for each trader and day. The bounds of the week let the planner leave chunks out.
SELECT each.trader_id, week.day, last.*
FROM risk_state AS each
CROSS JOIN unnest(%(days)s::date[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS week (day, starts, ends)
CROSS JOIN LATERAL (
    SELECT daily_pnl, recorded_at, current_equity, drawdown_pct, trading_paused, last_reset_time, epoch, seq
    FROM risk_state_history
    WHERE trader_id = each.trader_id
      AND recorded_at >= week.starts AND recorded_at < week.ends
      AND recorded_at >= %(since)s::timestamptz AND recorded_at < %(until)s::timestamptz
    ORDER BY recorded_at DESC, epoch DESC, seq DESC
    LIMIT 1
) AS last
WHERE %(trader)s::text IS NULL OR each.trader_id = %(trader)s
ORDER BY each.trader_id, week.day;
