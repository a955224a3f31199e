"""Partitions that Redis does not take snapshots of: each waits for itself, and the others do not wait."""

from __future__ import annotations

from contextlib import nullcontext

from risk_producer.session.buffer import Buffer
from risk_producer.session.outages import TRY_EVERY_S, Outages
from risk_producer.session.sender import Sender
from tests.support.factory import snapshot

AWAY = "away"


def test_one_partition_waits_and_the_others_do_not() -> None:
    outages = Outages(4)
    outages.record_failure(1, AWAY, took_s=0.0, now=10.0)
    assert 10.0 < outages.not_before(1) <= 10.05
    assert [outages.not_before(each) for each in (0, 2, 3)] == [0.0, 0.0, 0.0]
    assert outages.partitions == (1,)
    assert outages.is_away(1)
    assert not outages.is_away(0)
    assert (outages.reason_of(1), outages.reason_of(0)) == (AWAY, None)
    assert outages.reason == "partition 1 of 4: away"


def test_an_outage_lasts_from_the_first_that_fails_until_all_answer() -> None:
    outages = Outages(3)
    for at, partition in enumerate((0, 1, 0, 2)):
        outages.record_failure(partition, AWAY, 0.0, at)
    assert outages.count == 1
    assert outages.record_success(1, 5.0) is None
    assert outages.record_success(0, 6.0) is None
    assert 2 in outages.partitions
    assert outages.record_success(2, 7.0) == 7.0
    assert 2 not in outages.partitions
    assert outages.reason is None
    outages.record_failure(0, AWAY, 0.0, 8.0)
    assert outages.count == 2


def test_what_answers_all_the_time_ends_nothing() -> None:
    outages = Outages(2)
    outages.record_failure(0, AWAY, 0.0, 1.0)
    assert outages.record_success(1, 2.0) is None
    assert outages.partitions == (0,)


def test_where_all_are_away_the_tries_do_not_add_up() -> None:
    """16 partitions of a Redis that is away, for a minute: not 16 times as many tries."""
    outages, now, tries = Outages(16), 0.0, 0
    for partition in range(16):
        outages.record_failure(partition, AWAY, 0.0, now)
    while now < 60.0:
        for partition in range(16):
            if now >= outages.not_before(partition):
                outages.record_failure(partition, AWAY, 0.0, now)
                tries += 1
        now += 0.01
    assert tries <= 60 / TRY_EVERY_S + 1


def test_one_that_answers_lets_the_others_be_tried_at_once() -> None:
    outages = Outages(16)
    for partition in range(16):
        for _ in range(8):
            outages.record_failure(partition, AWAY, 0.0, 10.0)
    assert outages.record_success(3, 11.0) is None
    assert all(outages.not_before(each) <= 11.0 for each in range(16))


def test_a_server_that_says_nothing_leaves_half_of_the_time_to_the_others() -> None:
    outages = Outages(16)
    for partition in (0, 1):
        outages.record_failure(partition, AWAY, took_s=4.0, now=14.0)
    assert outages.not_before(0) == 18.0
    assert outages.not_before(1) == 18.0
    outages.record_failure(1, AWAY, took_s=0.25, now=18.25)
    assert outages.not_before(0) == 18.5
    assert 18.5 <= outages.not_before(1) < 19.0


def test_one_that_fails_at_once_does_not_wait_as_long_as_one_that_says_nothing() -> None:
    outages = Outages(16)
    outages.record_failure(0, "says nothing", took_s=4.0, now=14.0)
    outages.record_failure(1, "WRONGTYPE", took_s=0.0, now=14.0)
    assert outages.not_before(0) == 18.0
    assert outages.not_before(1) == 14.0 + TRY_EVERY_S


def test_nor_does_it_hold_up_the_one_that_says_nothing() -> None:
    outages, now = Outages(16), 14.0
    outages.record_failure(0, "says nothing", took_s=4.0, now=now)
    for _ in range(20):
        outages.record_failure(1, "WRONGTYPE", took_s=0.0, now=now)
        now += 0.2
    assert outages.not_before(0) <= 18.0 + TRY_EVERY_S


def test_what_has_nothing_to_send_on_a_server_that_says_nothing_is_tried_as_the_others_are() -> None:
    outages = Outages(16)
    outages.record_failure(0, AWAY, took_s=1.0, now=10.0)
    outages.record_silence(3, took_s=1.0)
    assert outages.is_doubtful(0)
    assert outages.is_doubtful(3)
    assert not outages.is_doubtful(4)
    assert outages.partitions == (0,), "nothing of it waits"
    assert outages.not_before(3) == 11.0
    assert outages.record_success(3, 12.0) is None
    assert not outages.is_doubtful(3)
    outages.record_silence(3, took_s=1.0)
    assert outages.record_success(0, 13.0) == 3.0
    assert not outages.is_doubtful(3)


def test_each_is_named_with_its_own_reason() -> None:
    outages = Outages(16)
    for partition, reason in ((5, "WRONGTYPE"), (1, "refused"), (2, "refused")):
        outages.record_failure(partition, reason, 0.0, 1.0)
    assert outages.reason == "partition 5 of 16: WRONGTYPE; partitions 1, 2 of 16: refused"
    for partition in range(16):
        outages.record_failure(partition, f"reason {partition}", 0.0, 1.0)
    assert outages.reason is not None
    assert outages.reason.endswith("; and 8 more reasons")


def test_what_concerns_no_partition_concerns_all() -> None:
    outages = Outages(2)
    assert outages.record_failure(None, AWAY, 0.0, 1.0) > 0
    assert outages.partitions == (0, 1)
    assert outages.reason_of(1) == AWAY
    assert outages.not_before(0) == 0.0  # the flusher itself waits
    assert outages.record_success(1, 3.0) == 2.0


def test_the_only_partition_is_not_named() -> None:
    outages = Outages(1)
    outages.record_failure(0, AWAY, 0.0, 1.0)
    assert outages.reason == AWAY


def test_many_are_not_all_named() -> None:
    outages = Outages(256)
    for partition in range(20):
        outages.record_failure(partition, AWAY, 0.0, 1.0)
    assert outages.reason == "partitions 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of 256: away"


def test_the_sender_asks_for_the_others_meanwhile() -> None:
    buffer = Buffer(16, 2, "block")
    outages = Outages(2)
    sender = Sender(buffer, nullcontext, 100, None, outages)
    for name in ("t0", "t4"):  # of partitions 1 and 0
        buffer.put(snapshot(name))
    assert len(sender.next_requests(1.0)) == 2
    wait_s = outages.record_failure(0, AWAY, 0.0, 1.0)
    for _ in range(3):  # it is not answered, and so asked again
        [other] = sender.next_requests(1.0)
        assert other.keys.partition == 1
    outages.record_failure(1, AWAY, 0.0, 1.0)
    assert sender.next_requests(1.0) == []
    assert not sender.open
    assert 0 < sender.wait_s(1.0) <= wait_s + TRY_EVERY_S
    assert len(sender.next_requests(1.0 + sender.wait_s(1.0) + 0.001)) == 1


def test_former_partitions_are_not_counted_among_those_that_there_are() -> None:
    outages = Outages(16)
    for partition in (0, 9, 12, 13, 14):
        outages.record_failure(partition, AWAY, 0.0, 0.0)
    outages.divide(4)
    assert outages.named(outages.partitions) == (
        "partitions 0, 9 (a former one), 12 (a former one), 13 (a former one), 14 (a former one) of 4"
    )
    assert outages.named((0, 1, 2, 3, 12)) == "", "all that there are"
