-- One dead letter is named by its payload too: by stream and entry id alone it could be another's by now.

-- name: remove
DELETE FROM risk_dead_letter
WHERE stream = %(stream)s AND entry_id = %(entry_id)s AND payload = %(payload)s;

-- name: update
UPDATE risk_dead_letter
SET reason = %(reason)s, sqlstate = %(sqlstate)s,
    trader_id = CASE WHEN own THEN %(trader_id)s::text END, epoch = CASE WHEN own THEN %(epoch)s::bigint END,
    seq = CASE WHEN own THEN %(seq)s::bigint END
FROM (SELECT NOT EXISTS (
    SELECT FROM risk_state WHERE trader_id = %(trader_id)s::text AND namespace <> %(came_by)s
) AS own) AS looked_up
WHERE stream = %(stream)s AND entry_id = %(entry_id)s AND payload = %(payload)s;

-- name: is_stored
-- (history has the snapshot, the trader's state is as new or newer)
SELECT EXISTS (
           SELECT FROM risk_state_history
           WHERE (trader_id, recorded_at, epoch, seq)
                 = (%(trader_id)s, %(recorded_at)s, %(epoch)s, %(seq)s)
       ),
       EXISTS (
           SELECT FROM risk_state
           WHERE trader_id = %(trader_id)s AND (epoch, seq) >= (%(epoch)s, %(seq)s)
       );
