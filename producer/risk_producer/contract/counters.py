"""Names that both sides count under, and the bounds of the latency histogram."""

from __future__ import annotations

from typing import Final

# Upper bounds of the latency histogram in milliseconds, recorded_at to COMMIT. About 1.3 apart, so that
# a quantile read off them is within a third of the truth.
LATENCY_BOUNDS_MS: Final = (
    *(1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400),
    *(500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 7_000, 10_000, 30_000, 60_000, 300_000, 3_600_000),
)
