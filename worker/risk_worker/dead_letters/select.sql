-- Which dead letters: those for which every condition holds whose parameter is not NULL. The three statements
-- have the same conditions; Postgres knows the parameters when it plans, so those that are NULL cost nothing.

-- name: rows
SELECT stream, entry_id, failed_at, reason, sqlstate, trader_id, epoch, seq, payload
FROM risk_dead_letter
WHERE (%(stream)s::text IS NULL OR stream = %(stream)s)
  AND (%(entry_id)s::text IS NULL OR entry_id = %(entry_id)s)
  AND (%(trader_id)s::text IS NULL OR trader_id = %(trader_id)s)
  AND (%(reason)s::text IS NULL OR position(lower(%(reason)s) IN lower(reason)) > 0)
  AND (%(older_than)s::interval IS NULL OR failed_at < now() - %(older_than)s)
  AND (%(newer_than)s::interval IS NULL OR failed_at > now() - %(newer_than)s)
  AND (%(until)s::timestamptz IS NULL OR failed_at <= %(until)s)
ORDER BY CASE WHEN %(by_stream)s::boolean THEN stream END, failed_at, stream, entry_id
LIMIT %(limit)s::bigint;

-- name: count
SELECT count(*), now()
FROM risk_dead_letter
WHERE (%(stream)s::text IS NULL OR stream = %(stream)s)
  AND (%(entry_id)s::text IS NULL OR entry_id = %(entry_id)s)
  AND (%(trader_id)s::text IS NULL OR trader_id = %(trader_id)s)
  AND (%(reason)s::text IS NULL OR position(lower(%(reason)s) IN lower(reason)) > 0)
  AND (%(older_than)s::interval IS NULL OR failed_at < now() - %(older_than)s)
  AND (%(newer_than)s::interval IS NULL OR failed_at > now() - %(newer_than)s)
  AND (%(until)s::timestamptz IS NULL OR failed_at <= %(until)s);

-- name: to_drop
-- No producer sends as much as 64 kB; of a payload that is larger nothing is read but its digest.
SELECT stream, entry_id, trader_id, epoch, seq, reason,
       CASE WHEN octet_length(payload) <= 65536 THEN payload ELSE '' END, sha256(payload)
FROM risk_dead_letter
WHERE (%(stream)s::text IS NULL OR stream = %(stream)s)
  AND (%(entry_id)s::text IS NULL OR entry_id = %(entry_id)s)
  AND (%(trader_id)s::text IS NULL OR trader_id = %(trader_id)s)
  AND (%(reason)s::text IS NULL OR position(lower(%(reason)s) IN lower(reason)) > 0)
  AND (%(older_than)s::interval IS NULL OR failed_at < now() - %(older_than)s)
  AND (%(newer_than)s::interval IS NULL OR failed_at > now() - %(newer_than)s)
  AND (%(until)s::timestamptz IS NULL OR failed_at <= %(until)s)
FOR UPDATE;
