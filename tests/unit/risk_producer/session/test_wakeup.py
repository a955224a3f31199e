"""When save() wakes the flusher, and how long the flusher rests."""

from __future__ import annotations

from risk_producer.session.wakeup import AWAKE_S, LINGER_S, NEVER, Wakeup


def test_half_a_buffer_is_sent_at_once_and_less_waits_to_grow() -> None:
    wakeup = Wakeup(buffer_size=10)
    assert wakeup.rest_s(0.0, 4, at_once=False) == LINGER_S
    assert wakeup.depth == 5, "save() wakes the flusher when half of the buffer is filled"
    assert wakeup.rest_s(0.0, 5, at_once=False) == 0
    assert wakeup.depth == NEVER, "the flusher is awake"


def test_a_call_that_waits_is_served_at_once_and_once() -> None:
    wakeup = Wakeup(buffer_size=10)
    wakeup.urgent = True
    assert wakeup.rest_s(0.0, 1, at_once=False) == 0
    assert wakeup.rest_s(0.0, 1, at_once=False) == LINGER_S
    assert wakeup.rest_s(0.0, 1, at_once=True) == 0


def test_the_flusher_sleeps_when_nothing_came_for_a_while() -> None:
    wakeup = Wakeup(buffer_size=10)
    assert wakeup.rest_s(1.0, 5, at_once=False) == 0
    assert wakeup.rest_s(1.0 + AWAKE_S / 2, 0, at_once=False) == LINGER_S
    assert wakeup.rest_s(1.0 + AWAKE_S, 0, at_once=False) is None
    assert wakeup.depth == 1, "the next save() wakes it"
