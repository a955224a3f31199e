"""The arithmetic of seq numbers, against a way that is too slow to be wrong."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from risk_worker.audit.ranges import Range, gaps_between, size, split, subtract, touches

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ranges = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
short_ranges = st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda pair: (pair[0], sum(pair)))


def numbers(these: list[Range]) -> set[int]:
    return {number for first, last in these for number in range(first, last + 1)}


def as_ranges(these: set[int]) -> list[Range]:
    found: list[Range] = []
    for number in sorted(these):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


@given(st.sets(st.integers(1, 40)), st.lists(ranges, max_size=12))
def test_subtract_is_set_arithmetic(missing: set[int], pieces: list[Range]) -> None:
    left, used, filled = subtract(as_ranges(missing), pieces)
    expected, count = set(missing), 0
    for first, last in sorted(pieces, key=lambda piece: piece[1]):
        if last in expected:
            count += 1
            # What is missing between, from the nearest number downwards that is there.
            number = last
            while number >= first and number in expected:
                expected.discard(number)
                number -= 1
    assert numbers(left) == expected
    assert left == [piece for piece in left if piece[0] <= piece[1]]
    assert (used, filled) == (count, len(missing) - len(expected))
    assert size(left) == len(expected)


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_split_is_set_arithmetic(missing: set[int], by: set[int]) -> None:
    outside, inside = split(as_ranges(missing), as_ranges(by))
    assert outside == as_ranges(missing - by)
    assert inside == as_ranges(missing & by)
    assert size(outside) + size(inside) == len(missing)


@given(st.sets(st.integers(1, 6), max_size=3), st.lists(short_ranges, max_size=2))
def test_touches_is_a_common_number(missing: set[int], pieces: list[Range]) -> None:
    assert touches(as_ranges(missing), pieces) == bool(missing & numbers(pieces))


@given(st.lists(ranges, max_size=12))
def test_gaps_between_is_what_is_left(pieces: list[Range]) -> None:
    segments = sorted((first - 1, last, NOW) for first, last in pieces)
    found = [(first, last) for first, last, _ in gaps_between(segments)]
    covered = numbers(pieces)
    assert found == as_ranges(set(range(1, max(covered, default=0))) - covered)
