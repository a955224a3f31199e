-- What `riskstream dead drop` removes, after select.sql: to_drop has chosen it.

-- name: remove
-- Those that an entry of the chain of seals names.
DELETE FROM risk_dead_letter AS dead USING risk_seal_drop AS dropped
WHERE run = %(number)s AND (dead.stream, dead.entry_id) = (dropped.stream, dropped.entry_id);
