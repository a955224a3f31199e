-- What the demo shows of history.

-- name: pauses
-- Of the epochs of this run: when a trader paused, and why.
SELECT trader_id, reason
FROM risk_state_history
JOIN unnest(%(traders)s::text[], %(epochs)s::bigint[]) AS this_run (trader_id, epoch) USING (trader_id, epoch)
WHERE trading_paused AND reason <> ''
ORDER BY recorded_at;

-- name: equity
-- The average of each of that many slices, and the seconds from the first one.
SELECT extract(epoch FROM min(recorded_at) - min(min(recorded_at)) OVER ())::float8,
       avg(current_equity)
FROM (
    SELECT recorded_at, current_equity, ntile(%(points)s) OVER (ORDER BY recorded_at) AS slice
    FROM risk_state_history
    WHERE trader_id = %(trader_id)s AND epoch = %(epoch)s
) AS sliced
GROUP BY slice
ORDER BY 1;
