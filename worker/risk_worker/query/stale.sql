-- name: stale
SELECT trader_id, silent_s, recorded_at, stored_at, trading_paused, daily_pnl, drawdown_pct, current_equity,
       reason, epoch, seq, %(waiting)s::bigint AS waiting
FROM risk_silence
WHERE silent_s > extract(epoch FROM %(older_than)s::interval)
ORDER BY silent_s DESC, trader_id;
