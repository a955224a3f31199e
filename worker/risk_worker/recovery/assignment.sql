-- To which namespaces traders belong.

-- name: counts
SELECT namespace, count(*) FROM risk_state GROUP BY 1 ORDER BY 1 NULLS LAST;

-- name: chosen
-- Locked until the end of the transaction: what a worker stores of them before or after it, is stored by one rule or the
-- other.
SELECT trader_id, namespace FROM risk_state
WHERE CASE WHEN %(traders)s::text[] IS NOT NULL THEN trader_id = ANY (%(traders)s::text[])
           ELSE namespace IS NOT DISTINCT FROM %(from)s::text END
ORDER BY trader_id
FOR UPDATE;

-- name: assign
UPDATE risk_state SET namespace = %(to)s WHERE trader_id = ANY (%(traders)s::text[]);
