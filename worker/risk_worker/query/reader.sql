-- name: knows
SELECT FROM risk_state WHERE trader_id = %(trader)s;

-- name: now
SELECT now();
