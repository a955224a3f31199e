"""What is agreed on about the number of partitions, whatever numbers there were before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from risk_producer.contract.keys import partition_of
from risk_producer.contract.partitioning import Partitioning

numbers = st.lists(st.integers(1, 256), min_size=1, max_size=9, unique=True)
partitionings = st.builds(
    lambda version, found: Partitioning(version, found[0], tuple(found[1:])),
    st.integers(1, 999_999_999),
    numbers,
)


@given(partitionings)
def test_its_text_is_read_again(made: Partitioning) -> None:
    assert Partitioning.read(made.text) == Partitioning.read(made.text.encode()) == made


@given(partitionings, st.integers(1, 256))
def test_a_change_is_announced_first_and_forgets_no_number(made: Partitioning, number: int) -> None:
    announced = made.announced(number)
    assert (announced.version, announced.partitions) == (made.version + 1, made.partitions)
    assert set(announced.numbers) == {*made.numbers, number}
    changed = announced.changed(number)
    assert (changed.version, changed.partitions) == (made.version + 2, number)
    assert set(changed.numbers) == {*made.numbers, number}
    for each in (announced, changed):
        assert len(set(each.numbers)) == len(each.numbers)


@given(partitionings, partitionings)
def test_joined_it_does_not_matter_which_comes_first(one: Partitioning, other: Partitioning) -> None:
    joined = one.joined(other)
    newer = max(one, other, key=lambda each: each.version)
    assert set(joined.numbers) == {*one.numbers, *other.numbers}
    assert joined.version - newer.version in (0, 1)
    if one.version != other.version:
        assert joined.partitions == newer.partitions
        assert other.joined(one) == joined
    assert joined.joined(one) == joined.joined(other) == joined


@given(partitionings, st.text(min_size=1, max_size=9))
def test_the_first_place_is_where_a_trader_is_sent(made: Partitioning, trader: str) -> None:
    places = made.places(trader)
    assert places[0] == partition_of(trader, made.partitions)
    assert set(places) == {partition_of(trader, number) for number in made.numbers}
    assert max(places) < made.width
