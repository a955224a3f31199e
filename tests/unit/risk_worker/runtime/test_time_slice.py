"""When a time slice ends."""

from __future__ import annotations

from risk_worker.runtime.jobs import partitions_of
from risk_worker.runtime.time_slice import TimeSlice
from tests.support.clock import FakeClock


def test_every_partition_is_in_exactly_one_share() -> None:
    for partitions in (1, 2, 3, 16, 255, 256):
        for shares in range(1, min(partitions, 17) + 1):
            parts = [partitions_of(share, shares, range(partitions)) for share in range(shares)]
            assert sorted(each for part in parts for each in part) == list(range(partitions))
            sizes = {len(part) for part in parts}
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_it_ends_when_the_number_of_shares_differs_for_two_looks_in_a_row() -> None:
    time_slice = TimeSlice(FakeClock())
    time_slice.begin(2, range(4))
    for shares in (2, 3, 2, 1, 2, 3):
        time_slice.look(shares, range(4))
        assert not time_slice.is_over(), "it differed for one look"
    time_slice.look(1, range(4))  # it differs again, though it is another number
    assert time_slice.is_over()
    time_slice.begin(1, range(4))
    assert not time_slice.is_over()


def test_it_ends_when_the_number_of_partitions_differs_for_two_looks_in_a_row() -> None:
    time_slice = TimeSlice(FakeClock())
    time_slice.begin(2, range(4))
    for partitions in (4, 16, 4, 5, 4, 16):
        time_slice.look(2, range(partitions))
        assert not time_slice.is_over(), "it differed for one look"
    time_slice.look(2, range(16))
    assert time_slice.is_over()


def test_it_ends_when_as_many_partitions_are_others() -> None:
    """One namespace has one more, and another one less: the places of those between are others."""
    time_slice = TimeSlice(FakeClock())
    time_slice.begin(2, [0, 1, 256])
    for _ in range(TimeSlice.LOOKS):
        assert not time_slice.is_over()
        time_slice.look(2, [0, 256, 257])
    assert time_slice.is_over()


def test_it_ends_after_its_length_but_not_while_something_waits_for_its_commit() -> None:
    clock = FakeClock()
    time_slice = TimeSlice(clock)
    time_slice.begin(1, range(4))
    clock.now += TimeSlice.LENGTH_S - 1
    time_slice.look(1, range(4))
    assert not time_slice.is_over()
    clock.now += 100
    assert not time_slice.is_over(), "RQ's Redis does not answer, so there is no look"
    time_slice.look(1, range(4), waits=True)
    assert not time_slice.is_over()
    time_slice.look(1, range(4))
    assert time_slice.is_over()


def test_while_something_waits_it_still_ends_for_another_number_of_shares_and_when_it_is_told_to() -> None:
    time_slice = TimeSlice(FakeClock())
    time_slice.begin(1, range(4))
    for _ in range(2):
        time_slice.look(2, range(4), waits=True)
    assert time_slice.is_over()
    time_slice.begin(2, range(4))
    time_slice.end()
    assert time_slice.is_over()
