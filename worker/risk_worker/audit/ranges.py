"""Arithmetic of seq numbers: which are covered, which are missing. Pure: no database and no Redis.

A range is (first, last), both included. A list of gaps is disjoint and in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

Range = tuple[int, int]
"""(first, last), both included."""

Segment = tuple[int, int, datetime]
"""(low, high, recorded_at): a row, or several, that cover the seq numbers (low, high]."""


def gaps_between(segments: Iterable[Segment]) -> Iterator[tuple[int, int, datetime]]:
    """(first, last, recorded_at of the segment above) of what no segment covers, from 1 on.

    segments: in the order of their low ends; they may overlap.
    """
    covered = 0
    for low, high, recorded_at in segments:
        if low > covered:
            yield covered + 1, low, recorded_at
        covered = max(covered, high)


def subtract(gaps: Iterable[Range], pieces: Iterable[Range]) -> tuple[list[Range], int, int]:
    """Take pieces out of gaps. A piece counts where its last number is missing; pieces may be in any order.

    Returns (the gaps that are left, how many pieces counted, how many numbers those cover).
    """
    left: list[Range] = []
    used = filled = 0
    rest = iter(gaps)
    gap = next(rest, None)
    for first, last in sorted(pieces, key=lambda piece: piece[1]):
        while gap is not None and gap[1] < last:
            left.append(gap)
            gap = next(rest, None)
        if gap is None:
            break
        if last < gap[0]:
            continue  # not missing
        first = max(first, gap[0])
        used += 1
        filled += last - first + 1
        if first > gap[0]:
            left.append((gap[0], first - 1))
        gap = (last + 1, gap[1]) if last < gap[1] else next(rest, None)
    if gap is not None:
        left += [gap, *rest]
    return left, used, filled


def split(gaps: Iterable[Range], by: Iterable[Range]) -> tuple[list[Range], list[Range]]:
    """(what of the gaps is not in `by`, what is). Both arguments: disjoint, in order."""
    outside: list[Range] = []
    inside: list[Range] = []
    rest = iter(by)
    piece = next(rest, None)
    for first, last in gaps:
        while first <= last:
            while piece is not None and piece[1] < first:
                piece = next(rest, None)
            if piece is None or last < piece[0]:
                outside.append((first, last))
                break
            if first < piece[0]:
                outside.append((first, piece[0] - 1))
            inside.append((max(first, piece[0]), min(last, piece[1])))
            first = inside[-1][1] + 1
    return outside, inside


def touches(gaps: Iterable[Range], pieces: Iterable[Range]) -> bool:
    """Whether any number of the pieces is in a gap. pieces: in any order."""
    rest = iter(gaps)
    gap = next(rest, None)
    for first, last in sorted(pieces):
        while gap is not None and gap[1] < first:
            gap = next(rest, None)
        if gap is None:
            return False
        if gap[0] <= last:
            return True
    return False


def size(ranges: Iterable[Range]) -> int:
    """How many numbers they have. ranges: disjoint."""
    return sum(last - first + 1 for first, last in ranges)


def shown(numbers: Range) -> str:
    """For a person: "seq 7", "seq 7 to 9 (3)"."""
    first, last = numbers
    return f"seq {first}" if first == last else f"seq {first} to {last} ({last - first + 1:,})"
