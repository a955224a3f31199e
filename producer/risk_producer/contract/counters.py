"""Names of the counters that both sides keep in Redis, and the bounds of the latency histogram.

The scripts spell the names too; a test compares them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

ACCEPTED: Final = "accepted"
"""Snapshots that were admitted to the stream, those merged into them included."""
CONFLATED: Final = "conflated"
"""Snapshots that were merged into a newer one."""
FOREIGN: Final = "foreign"
"""Entries that were taken off the stream and that no producer had admitted."""
STORED: Final = "stored"
DUPLICATES: Final = "duplicates"
"""Stored snapshots that history already had."""
DEAD: Final = "dead"
BATCHES: Final = "batches"
"""Transactions that were committed and acknowledged."""
RETRIES: Final = "retries"
"""Tries to store a batch that failed."""
UNREADABLE: Final = "unreadable"
"""Counters that could not be counted and started anew."""
LATENCY_SUM_MS: Final = "latency_sum_ms"
"""Milliseconds from recorded_at to COMMIT, of all stored snapshots together; of each an hour at the most."""
ACKNOWLEDGED_MS: Final = "acknowledged_ms"
"""No total, but the time of the last acknowledgement, by Redis' clock."""
RESTORED: Final = "restored"
"""Of traders, not of snapshots: a worker restored them from Postgres, as Redis had lost its data."""
RESTORED_MS: Final = "restored_ms"
"""When a worker last found that Redis is new, or had lost its data; by Redis' clock."""

TOTALS: Final = (
    *(ACCEPTED, CONFLATED, FOREIGN, STORED, DUPLICATES, DEAD),
    *(BATCHES, RETRIES, UNREADABLE, LATENCY_SUM_MS),
)

# Upper bounds of the latency histogram in milliseconds, recorded_at to COMMIT. About 1.3 apart, so that
# a quantile read off them is within a third of the truth.
LATENCY_BOUNDS_MS: Final = (
    *(1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400),
    *(500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 7_000, 10_000, 30_000, 60_000, 300_000, 3_600_000),
)
LATENCY_BUCKETS: Final = (*(f"{bound:g}" for bound in LATENCY_BOUNDS_MS), "+Inf")
"""The buckets' names in Redis, in their order: the upper bound in ms."""


def bucket_of(latency_ms: float) -> str:
    """The name of the bucket that a latency belongs to."""
    return LATENCY_BUCKETS[bisect_left(LATENCY_BOUNDS_MS, latency_ms)]
