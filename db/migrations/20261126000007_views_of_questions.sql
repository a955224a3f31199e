-- migrate:up

-- What the questions of docs/questions.md say, for SQL and dashboards. A pause begins where trading_paused changes to true in
-- the order of the key, and ends with the next row that is not paused. Both are found by the key, so that conditions on
-- trader_id and since reach it.
CREATE VIEW risk_pauses AS
SELECT
    began.trader_id,
    began.recorded_at AS since,
    ended.recorded_at AS until,
    extract(epoch FROM coalesce(ended.recorded_at, now()) - began.recorded_at)::double precision AS lasted_s,
    began.reason,
    began.trace_id,
    began.paused_until,
    began.daily_pnl,
    began.drawdown_pct,
    began.current_equity,
    began.epoch,
    began.seq
FROM risk_state AS each
JOIN risk_state_history AS began ON began.trader_id = each.trader_id
LEFT JOIN LATERAL (
    SELECT trading_paused
    FROM risk_state_history
    WHERE trader_id = began.trader_id AND recorded_at <= began.recorded_at
        AND (recorded_at, epoch, seq) < (began.recorded_at, began.epoch, began.seq)
    ORDER BY recorded_at DESC, epoch DESC, seq DESC
    LIMIT 1
) AS before ON true
LEFT JOIN LATERAL (
    SELECT recorded_at
    FROM risk_state_history
    WHERE trader_id = began.trader_id AND NOT trading_paused AND recorded_at >= began.recorded_at
        AND (recorded_at, epoch, seq) > (began.recorded_at, began.epoch, began.seq)
    ORDER BY recorded_at, epoch, seq
    LIMIT 1
) AS ended ON true
WHERE began.trading_paused AND before.trading_paused IS NOT TRUE;
COMMENT ON VIEW risk_pauses IS
    'Pauses of each trader: since and until (NULL: not over yet), lasted_s (seconds, until now where it is not over), and '
    'of the snapshot that began it reason, trace_id, paused_until, daily_pnl, drawdown_pct, current_equity, epoch, seq; '
    'docs/questions.md';

CREATE VIEW risk_silence AS
SELECT
    trader_id,
    -- The earlier of two times: a trader whose clock is ahead is silent once nothing of it is stored.
    extract(epoch FROM now() - least(recorded_at, updated_at))::double precision AS silent_s,
    recorded_at,
    updated_at AS stored_at,
    trading_paused,
    daily_pnl,
    drawdown_pct,
    current_equity,
    reason,
    epoch,
    seq
FROM risk_state;
COMMENT ON VIEW risk_silence IS
    'How long each trader has been silent: silent_s (seconds since the newest snapshot was recorded or stored, whichever is '
    'longer ago), and its recorded_at, stored_at, trading_paused, daily_pnl, drawdown_pct, current_equity, reason, epoch, '
    'seq; docs/questions.md';

-- migrate:down

DROP VIEW risk_silence, risk_pauses;
