"""How long the drain waits between two tries of a database that is away."""

from __future__ import annotations

from risk_worker.drain.errors import StoreUnavailable
from risk_worker.drain.retry import OutageLog, RetryPolicy


def test_no_wait_is_longer_than_the_bound_of_the_documentation_leaves_room_for() -> None:
    """The drain goes on within 5 s once Postgres is back; a try takes a part of that."""
    outage = OutageLog(RetryPolicy())
    waits_s = [outage.record_failure(StoreUnavailable("away"), "stream") for _ in range(200)]
    assert max(waits_s) <= 3
    assert min(waits_s) < 1, "jitter: many workers do not come all at once"
    outage.record_success()
    assert outage.record_failure(StoreUnavailable("away again"), "stream") <= 0.15
