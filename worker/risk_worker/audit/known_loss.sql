-- Losses that an operator has accepted.

-- name: in_force
-- The entries that no other one undoes; trader: of one trader alone, NULL: of all.
SELECT number, trader_id, epoch, first_seq, last_seq, reason, recorded_by, recorded_at
FROM risk_known_loss AS loss
WHERE undoes IS NULL
  AND NOT EXISTS (SELECT FROM risk_known_loss AS undo WHERE undo.undoes = loss.number)
  AND (%(trader)s::text IS NULL OR trader_id = %(trader)s)
ORDER BY trader_id, epoch, first_seq, number;

-- name: all_entries
-- Undone ones and undoing ones too, in their order.
SELECT loss.number, loss.trader_id, loss.epoch, loss.first_seq, loss.last_seq, loss.undoes, loss.reason,
       loss.recorded_by, loss.database_user, loss.recorded_at, undo.number
FROM risk_known_loss AS loss LEFT JOIN risk_known_loss AS undo ON undo.undoes = loss.number
WHERE %(trader)s::text IS NULL OR loss.trader_id = %(trader)s
ORDER BY loss.number;

-- name: one_at_a_time
-- Until the end of the transaction no other one can add an entry; reading goes on.
LOCK TABLE risk_known_loss IN SHARE ROW EXCLUSIVE MODE;

-- name: accept
-- No row: an entry that is in force has a part of the range.
INSERT INTO risk_known_loss (trader_id, epoch, first_seq, last_seq, reason, recorded_by)
SELECT %(trader)s, %(epoch)s, %(first)s, %(last)s, %(reason)s, %(by)s
WHERE NOT EXISTS (
    SELECT FROM risk_known_loss AS loss
    WHERE trader_id = %(trader)s AND epoch = %(epoch)s AND first_seq <= %(last)s AND last_seq >= %(first)s
      AND undoes IS NULL AND NOT EXISTS (SELECT FROM risk_known_loss AS undo WHERE undo.undoes = loss.number)
)
RETURNING number;

-- name: undo
-- No row: there is no such entry that is in force.
INSERT INTO risk_known_loss (trader_id, epoch, first_seq, last_seq, undoes, reason, recorded_by)
SELECT trader_id, epoch, first_seq, last_seq, number, %(reason)s, %(by)s
FROM risk_known_loss AS loss
WHERE number = %(number)s AND undoes IS NULL
  AND NOT EXISTS (SELECT FROM risk_known_loss AS undo WHERE undo.undoes = loss.number)
RETURNING number;
