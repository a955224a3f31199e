-- name: state
SELECT trader_id, recorded_at, extract(epoch FROM now() - recorded_at)::float8 AS age_s,
       daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused, paused_until, last_reset_time,
       reason, trace_id, epoch, seq, updated_at AS stored_at,
       %(waiting)s::bigint AS waiting
FROM risk_state
WHERE %(trader)s::text IS NULL OR trader_id = %(trader)s
ORDER BY trader_id;
