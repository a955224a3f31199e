-- name: knows
SELECT FROM risk_state WHERE trader_id = %(trader)s;

-- name: now
SELECT now();

-- name: sealed
-- How far history is sealed, and the first UTC day of which nothing has expired. What is sealed until a time was stored,
-- and committed, before the entry was: so this transaction sees all of it. A time that Python does not have is the next
-- that it has.
SELECT (SELECT CASE WHEN until_at > '-infinity' THEN least(greatest(until_at, '2000-01-01Z'), '9999-12-30Z') END
        FROM risk_seal_run ORDER BY number DESC LIMIT 1),
       (SELECT max(expired_until) FROM risk_seal_run);
