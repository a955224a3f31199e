"""How long a producer waits before it asks a Redis that is away again."""

from __future__ import annotations

from bisect import bisect_left

from risk_producer.session.backoff import Backoff

AWAY = "away"


def test_waits_double_from_a_twentieth_of_a_second_to_two_seconds() -> None:
    backoff = Backoff()
    for most in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        assert most / 2 <= backoff.record_failure(AWAY) <= most


def test_a_thousand_producers_do_not_stampede() -> None:
    """Redis went away for all of them at once. When it comes back they come one by one."""
    tries = []
    for _ in range(1000):
        backoff, now = Backoff(), 0.0
        while now < 20:
            now += backoff.record_failure(AWAY)
            if now > 5:
                tries.append(now)
    tries.sort()
    most = max(bisect_left(tries, now + 0.1) - at for at, now in enumerate(tries))
    assert most < 150, "of 1000, in a tenth of a second"
