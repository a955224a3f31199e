-- name: asof
-- One look at the key for each trader.
SELECT newest.*, %(final)s::bool AS final
FROM risk_state AS each
CROSS JOIN LATERAL (
    SELECT trader_id, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused,
           paused_until, last_reset_time, reason, trace_id, epoch, seq, merged, stored_at
    FROM risk_state_history
    WHERE trader_id = each.trader_id
      AND recorded_at <= %(time)s::timestamptz
      AND stored_at <= coalesce(%(known_at)s::timestamptz, 'infinity')
    ORDER BY recorded_at DESC, epoch DESC, seq DESC
    LIMIT 1
) AS newest
WHERE %(trader)s::text IS NULL OR each.trader_id = %(trader)s
ORDER BY each.trader_id;
