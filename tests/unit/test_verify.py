"""The arithmetic of the books, against a way that is too slow to be wrong."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from risk_producer.connect import CertificateRefused, ServerTooOld
from risk_worker import verify
from risk_worker.balance import Account, Books, Range, fill, size
from risk_worker.verify import Report, assess

LIFE = ("t1", 7)

ranges = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


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
def test_fill_is_set_arithmetic(missing: set[int], pieces: list[Range]) -> None:
    left, used, filled = fill(as_ranges(missing), pieces)
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


def books(account: Account | None = None, **more: Any) -> Books:
    return Books({LIFE: account} if account else {}, **more)


def totals(report: Report) -> tuple[int, ...]:
    return tuple(count for name, count in report.totals.items() if name not in ("foreign", "not_retained"))


def test_in_flight_makes_up_the_difference() -> None:
    report = assess({LIFE: 10}, {LIFE: [(7, 8), (9, 9), (10, 10)]}, books(Account(5, 1, 0, 0, 0, (), 6)))
    assert totals(report) == (10, 5, 1, 1, 3, 0, 0, 0)
    assert report.problems == []


def test_what_was_read_as_waiting_and_is_stored_by_now_counts_once() -> None:
    report = assess({LIFE: 3}, {LIFE: [(2, 2), (3, 3)]}, books(Account(3, 0, 0, 0, 0, (), 3)))
    assert totals(report) == (3, 3, 0, 0, 0, 0, 0, 0)


def test_what_was_accepted_and_stored_while_looking_is_no_surplus() -> None:
    report = assess({LIFE: 3}, {}, books(Account(5, 0, 0, 0, 0, (), 5)))
    assert totals(report) == (5, 5, 0, 0, 0, 0, 0, 0)


def test_holes_are_named() -> None:
    account = Account(5, 0, 0, 4, 0, [(2, 3), (7, 8)], 9)
    report = assess({LIFE: 12}, {LIFE: [(3, 3), (11, 11)]}, books(account))
    assert report.problems == [
        "t1, epoch 7: lost seq 2",
        "t1, epoch 7: lost seq 7 to 8 (2)",
        "t1, epoch 7: lost seq 10",
        "t1, epoch 7: lost seq 12",
    ]
    said = json.loads("".join(report.as_json()))
    assert (said["lost"], said["in_flight"], said["balanced"]) == (5, 2, False)
    assert said["holes"][1] == {"trader_id": "t1", "epoch": 7, "from": 7, "to": 8}


def test_a_life_that_nothing_is_left_of_is_lost() -> None:
    assert assess({LIFE: 2}, {}, books()).problems == ["t1, epoch 7: lost seq 1 to 2 (2)"]


def test_duplicates_are_named() -> None:
    report = assess({LIFE: 3}, {}, books(Account(5, 0, 0, 0, 2, (), 3)))
    assert report.problems == ["t1, epoch 7: 2 stored twice"]
    assert report.totals["duplicates"] == 2


def test_books_that_contradict_themselves_are_noticed() -> None:
    report = assess({LIFE: 3}, {}, books(Account(2, 0, 0, 0, 0, (), 3)))
    assert report.problems == ["t1, epoch 7: 3 accepted, but 2 accounted for"]


def test_foreign_entries_balance_too() -> None:
    report = assess({LIFE: 1}, {}, Books({LIFE: Account(1, 0, 0, 0, 0, (), 1)}, unidentified=2), foreign=3)
    assert totals(report) == (1, 1, 2, 0, 3, 0, 0, 0)
    assert report.totals["foreign"] == 5
    assert report.problems == []


def test_many_problems_are_cut_short_for_a_person_alone() -> None:
    holes = [(n, n) for n in range(1, 400, 2)]
    report = assess({LIFE: 400}, {}, books(Account(200, 0, 0, 200, 0, holes, 400)))
    assert "and 150 more" in report.as_text(each_life=False)
    assert len(json.loads("".join(report.as_json()))["holes"]) == 200


NO_SERVER = "redis://127.0.0.1:1/0"


def test_verify_says_what_it_waits_for_and_gives_up(capsys: pytest.CaptureFixture[str]) -> None:
    clock = count()  # each look at it is a second later
    said: list[str] = []

    def pause(_: float) -> None:
        said.append(capsys.readouterr().err)

    with pytest.raises(redis.ConnectionError):
        verify._wait_for_redis(NO_SERVER, lambda: float(next(clock)), pause)
    assert next(clock) == verify.REDIS_WAIT_S + 1
    assert [bool(text) for text in said[:3]] == [False, True, False]
    assert said[1].startswith("Waiting for Redis, for 6 s more at most: ")
    assert "refused" in said[1]
    assert "".join(said).count("\n") == 1


@pytest.mark.parametrize("final", [redis.AuthenticationError, ServerTooOld, CertificateRefused])
def test_verify_does_not_wait_where_waiting_does_not_help(
    final: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise final("no")

    monkeypatch.setattr(redis.ConnectionPool, "get_connection", refuse)
    with pytest.raises(final):
        verify._wait_for_redis(NO_SERVER, pause=lambda _: pytest.fail("waits"))
