-- name: stale
-- The earlier of two times: a trader whose clock is ahead is silent once nothing of it is stored.
SELECT trader_id, extract(epoch FROM now() - least(recorded_at, updated_at))::float8 AS silent_s,
       recorded_at, updated_at AS stored_at, trading_paused, daily_pnl, drawdown_pct, current_equity, reason,
       epoch, seq
FROM risk_state
WHERE least(recorded_at, updated_at) < now() - %(older_than)s::interval
ORDER BY least(recorded_at, updated_at), trader_id;
