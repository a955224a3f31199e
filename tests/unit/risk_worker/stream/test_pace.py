"""Whether a wait would let a batch grow."""

from __future__ import annotations

import pytest

from risk_worker.stream.pace import Pace

WITHIN_S = 0.005


def waits(per_s: float, seconds: float = 10.0) -> tuple[int, int]:
    """(batches, those that waited) of steady traffic; to store a batch takes 3 ms."""
    pace, now, batches, waited, stored, came = Pace(), 100.0, 0, 0, 0.0, 0
    began = now
    while now - began < seconds:
        now = max(now, began + (stored + 1) / per_s)
        if pace.brings(WITHIN_S, now):
            waited += 1
            now += WITHIN_S
        came = int((now - began) * per_s + 1e-9)
        pace.record(came - int(stored), now)
        stored, batches, now = came, batches + 1, now + 0.003
    return batches, waited


@pytest.mark.parametrize("per_s", [1, 10, 100, 150])
def test_what_comes_alone_waits_for_nothing(per_s: float) -> None:
    assert waits(per_s)[1] == 0


@pytest.mark.parametrize("per_s", [300, 1_000, 10_000])
def test_a_batch_waits_where_it_grows(per_s: float) -> None:
    batches, waited = waits(per_s)
    assert waited >= batches - 2
    assert batches < 1_400, "of some 8 ms"


def test_the_first_read_waits_for_nothing() -> None:
    assert not Pace().brings(WITHIN_S, 100.0)
    pace = Pace()
    pace.record(1_000, 1.0)
    assert pace.brings(WITHIN_S, 1.0)
    assert not pace.brings(0.0, 1.001), "no time"
