-- What `riskstream repair` asks of Postgres about one trader.

-- name: state
SELECT trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity,
       trading_paused, paused_until, last_reset_time, trace_id, reason
FROM risk_state
WHERE trader_id = %(trader)s;

-- name: namespace
SELECT namespace FROM risk_state WHERE trader_id = %(trader)s;

-- name: last_seq
SELECT greatest(
    (SELECT max(seq) FROM risk_state_history WHERE trader_id = %(trader)s AND epoch = %(epoch)s),
    (SELECT max(seq) FROM risk_dead_letter WHERE trader_id = %(trader)s AND epoch = %(epoch)s)
) AS seq;
