"""How v1.jsonl came to be. Run it only for a new version: what is released is never written again.

spool-1 is the spool of a producer that was killed while Redis was away, after save(PLAIN) and save(PAUSED).
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import encode

_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

PLAIN = RiskSnapshot(
    trader_id="t1",
    daily_pnl=-12.5,
    drawdown_pct=0.125,
    current_equity=99_987.5,
    peak_equity=100_000.0,
    last_reset_time=datetime(2026, 1, 2, tzinfo=UTC),
    recorded_at=_AT,
)
PAUSED = RiskSnapshot(
    trader_id='desk-α/7 "x"',
    daily_pnl=1e-300,
    drawdown_pct=12.34567890123456,
    current_equity=1.7976931348623157e308,
    peak_equity=0.1,
    trading_paused=True,
    paused_until=datetime(2026, 1, 3, tzinfo=UTC),
    last_reset_time=datetime(2026, 1, 2, tzinfo=UTC),
    recorded_at=_AT,
    trace_id="0af7651916cd43dd8448eb211c80319c",
    reason="daily loss limit\n– 5 % ✋",
)

ENTRIES = [(PLAIN, 1, 1, 0), (PAUSED, 1_767_323_045_678, 2**53, 41)]

if __name__ == "__main__":
    for entry in ENTRIES:
        sys.stdout.buffer.write(encode(*entry) + b"\n")
