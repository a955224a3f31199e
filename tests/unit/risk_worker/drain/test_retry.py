"""How long the drain waits between two tries of a database that is away."""

from __future__ import annotations

import pytest

from risk_worker.drain.errors import SourceUnavailable, StoreMisconfigured, StoreUnavailable
from risk_worker.drain.retry import OutageLog, RetryPolicy


def test_no_wait_is_longer_than_the_bound_of_the_documentation_leaves_room_for() -> None:
    """The drain goes on within 5 s once Postgres is back; a try takes a part of that."""
    outage, policy = OutageLog(), RetryPolicy()
    waits_s = [outage.record_failure(StoreUnavailable("away"), "the stream", policy) for _ in range(200)]
    assert max(waits_s) <= 3
    assert min(waits_s) < 1, "jitter: many workers do not come all at once"
    outage.record_success()
    assert outage.record_failure(StoreUnavailable("away again"), "the stream", policy) <= 0.15


def test_why_the_store_cannot_store_is_known_until_it_can() -> None:
    outage, policy = OutageLog(), RetryPolicy()
    seen = [outage.why]
    errors = (StoreUnavailable("the disk is full"), StoreMisconfigured("no table"), SourceUnavailable("x"))
    for error in errors:
        outage.record_failure(error, "the stream", policy)
        seen.append(outage.why)
    outage.record_failure(StoreUnavailable("away"), "the stream", policy)
    outage.record_success()
    assert [*seen, outage.why] == ["", "the disk is full", "no table", "", ""]


def test_servers_that_do_not_answer_are_one_outage_whichever_the_error_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = OutageLog()
    for port in (1, 2, 3):
        outage.record_failure(
            SourceUnavailable(f"Redis did not answer: {port}", no_answer=True), "there", RetryPolicy()
        )
    assert len(caplog.messages) == 1
    outage.record_failure(SourceUnavailable("Redis did not answer: NOAUTH"), "there", RetryPolicy())
    assert (
        caplog.messages[1]
        == "The worker cannot store: Redis did not answer: NOAUTH. Snapshots wait in there."
    )
