"""Rounds: what a producer holds goes out together, and each partition has an outcome of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from risk_producer.contract.keys import Keys, partition_of
from risk_producer.contract.partitioning import Partitioning
from risk_producer.errors import StreamUnavailable
from risk_producer.session.options import Options
from risk_producer.session.sender import FULL_ROUND
from risk_producer.session.session import ProducerSession
from risk_producer.transport.requests import BATCH_MAX, Admission, Admit, Claim, Request, TraderStream
from tests.support.factory import snapshot
from tests.support.redis import stream_of

PARTITIONS = 16
AWAY = StreamUnavailable("away")


def trader_of(partition: int, partitions: int = PARTITIONS) -> str:
    return next(name for name in map("t{}".format, count()) if partition_of(name, partitions) == partition)


def save(session: ProducerSession, partitions: Sequence[int] = range(PARTITIONS), each: int = 1) -> None:
    for number in range(each):
        for partition in partitions:
            assert session.accept(snapshot(trader_of(partition), number)) is not None


def partitions_of(requests: Sequence[Request]) -> list[int]:
    return [each.keys.partition for each in requests]


class Counting(TraderStream):
    """On fakeredis; counts the pipelines, and what they have in them."""

    def __init__(self) -> None:
        client: Any = fakeredis.FakeRedis()
        self.client = client
        self.trips: list[list[str]] = []
        super().__init__(client)
        execute, pipeline = client.execute_command, client.pipeline

        def execute_command(*words: Any, **options: Any) -> Any:
            self.trips.append([words[0]])
            return execute(*words, **options)

        def pipelined(**options: Any) -> Any:
            made: Any = pipeline(**options)
            run = made.execute

            def execute_all(**options: Any) -> Any:
                self.trips.append([words[0] for words, _ in made.command_stack])
                return run(**options)

            made.execute = execute_all
            return made

        client.execute_command = execute_command
        client.pipeline = pipelined


@pytest.fixture
def stream() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.close()


@pytest.fixture
def session() -> ProducerSession:
    return ProducerSession(Options(partitions=PARTITIONS, buffer_size=10_000))


def claim_all(session: ProducerSession, stream: TraderStream) -> None:
    save(session)
    for _ in range(2):
        session.on_replies(stream.ask(session.next_requests(1.0)), 1.0)
    assert not session.depth


def test_the_first_start_of_many_partitions_is_two_round_trips(
    session: ProducerSession, stream: Counting
) -> None:
    claim_all(session, stream)
    stream.client.flushdb()
    stream.trips.clear()
    fresh = ProducerSession(Options(partitions=PARTITIONS))
    save(fresh, each=3)
    for kind in (Claim, Admit):
        requests = fresh.next_requests(1.0)
        assert partitions_of(requests) == list(range(PARTITIONS))
        assert {type(each) for each in requests} == {kind}
        fresh.on_replies(stream.ask(requests), 1.0)
    assert not fresh.depth
    assert stream.trips == [["EVALSHA"] * PARTITIONS] * 2
    assert all(len(stream_of(stream.client, each)) == 3 for each in range(PARTITIONS))


def test_claims_and_batches_go_together(session: ProducerSession, stream: Counting) -> None:
    claim_all(session, stream)
    save(session, [0, 1])
    other = next(name for name in map("n{}".format, count()) if partition_of(name, PARTITIONS) == 1)
    assert session.accept(snapshot(other)) is not None
    requests = session.next_requests(1.0)
    assert [(type(each), each.keys.partition) for each in requests] == [(Admit, 0), (Claim, 1)]
    stream.trips.clear()
    session.on_replies(stream.ask(requests), 1.0)
    assert stream.trips == [["EVALSHA"] * 2]


def test_a_server_that_forgot_the_scripts_is_no_failure(session: ProducerSession, stream: Counting) -> None:
    claim_all(session, stream)
    save(session)
    stream.client.script_flush()
    stream.trips.clear()
    replies = stream.ask(session.next_requests(1.0))
    assert all(isinstance(each, Admission) for each in replies)
    assert [words[0] for words in stream.trips] == ["EVALSHA", "SCRIPT"]


@pytest.mark.parametrize("buffer_size", [10_000, 64, 3])
def test_a_round_has_as_many_entries_as_a_batch(buffer_size: int, stream: Counting) -> None:
    session = ProducerSession(Options(partitions=PARTITIONS, buffer_size=buffer_size))
    bound, sizes = min(BATCH_MAX, buffer_size // 2), []
    for number in range(min(buffer_size, 2_000)):
        session.accept(snapshot(trader_of(number % PARTITIONS), number))
    while session.depth:
        requests = session.next_requests(1.0)
        sizes.append(sum(map(len, requests)))
        session.on_replies(stream.ask(requests), 1.0)
    assert max(sizes) == bound
    assert all(numbers == sorted(numbers) for numbers in map(numbers_in(stream), range(PARTITIONS)))


def numbers_in(stream: Counting) -> Callable[[int], list[float]]:
    return lambda partition: [wire.daily_pnl for wire in stream_of(stream.client, partition)]


def test_each_partition_has_its_turn(session: ProducerSession, stream: Counting) -> None:
    """With a backlog that fills a round, the next one begins with what had no room."""
    claim_all(session, stream)
    save(session, each=200)
    served: list[int] = []
    for _ in range(6):
        requests = session.next_requests(1.0)
        served += partitions_of(requests)
        session.on_replies(stream.ask(requests), 1.0)
    assert served == [*range(PARTITIONS), 2, 5, 8]


def test_a_buffer_that_is_kept_full_is_sent_in_full_requests(stream: Counting) -> None:
    session, number = ProducerSession(Options(partitions=PARTITIONS, buffer_size=1024)), count()
    claim_all(session, stream)
    sizes: list[int] = []
    save(session, each=40)
    at = next(number)
    for _ in range(30):
        requests = session.next_requests(1.0)
        while session.accept(snapshot(trader_of(at % PARTITIONS), at)):  # also while Redis is asked
            at = next(number)
        assert len(requests) <= FULL_ROUND
        sizes += map(len, requests)
        session.on_replies(stream.ask(requests), 1.0)
    assert sum(sizes) / len(sizes) > 45


def test_a_request_without_an_answer_keeps_its_turn_and_its_bytes(
    session: ProducerSession, stream: Counting
) -> None:
    claim_all(session, stream)
    save(session, [0], each=400)
    save(session, [1], each=400)
    first, second = session.next_requests(1.0)
    assert (len(first), len(second)) == (400, 100)
    session.on_replies([stream.ask([first])[0], AWAY], 1.0)
    save(session, [0, 2], each=400)
    others = session.next_requests(100.0)
    assert partitions_of(others) == [0, 2]
    session.on_replies(stream.ask(others), 100.0)
    [again] = session.next_requests(100.0)
    assert again is second, "alone, as its partition is away"
    session.on_replies(stream.ask([again]), 100.0)
    while session.depth:
        session.on_replies(stream.ask(session.next_requests(100.0)), 100.0)
    assert [len(stream_of(stream.client, each)) for each in range(3)] == [801, 401, 401]


def test_an_error_of_one_partition_is_its_own(
    session: ProducerSession, stream: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    claim_all(session, stream)
    stream.client.rename(Keys(5).snapshots, "aside")
    stream.client.set(Keys(5).snapshots, "x")
    save(session)
    requests = session.next_requests(1.0)
    replies = stream.ask(requests)
    assert [at for at, each in enumerate(replies) if isinstance(each, StreamUnavailable)] == [5]
    session.on_replies(replies, 1.0)
    assert session.health().away == (5,)
    assert session.depth == 1
    save(session)
    assert partitions_of(session.next_requests(1.0)) == [each for each in range(PARTITIONS) if each != 5]
    assert len(caplog.records) == 1


def test_one_that_is_away_is_asked_alone_and_in_its_turn(session: ProducerSession, stream: Counting) -> None:
    claim_all(session, stream)
    now, seen = 1.0, []
    for _ in range(7):
        save(session)
        requests = session.next_requests(now)
        replies = [AWAY if each.keys.partition == 5 else stream.ask([each])[0] for each in requests]
        session.on_replies(replies, now)
        seen.append(partitions_of(requests))
        now += 10.0
    everything = list(range(PARTITIONS))
    others = [each for each in everything if each != 5]
    assert seen[0] == everything
    assert [sorted(each) for each in seen[1:]] == [others, [5]] * 3


def test_a_connection_that_fails_is_one_outage(
    session: ProducerSession, stream: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    claim_all(session, stream)
    save(session, each=2)
    requests = session.next_requests(1.0)

    def fails(**_options: Any) -> Any:
        raise RedisConnectionError("refused")

    pipeline, stream.client.pipeline = stream.client.pipeline, fails
    replies = stream.ask(requests)
    assert {str(each) for each in replies} == {"ConnectionError: refused"}
    with caplog.at_level(logging.WARNING):
        session.on_replies(replies, 1.0)
        assert session.health().away == tuple(range(PARTITIONS))
        assert session.sample().outages == 1
        assert session.next_requests(1.0) == [], "the round waits once, and not each partition"
        stream.client.pipeline = pipeline
        now = 2.0
        for _ in range(2 * PARTITIONS):
            now += 0.01
            session.on_replies(stream.ask(session.next_requests(now)), now)
    assert not session.depth
    first, last = [each.getMessage() for each in caplog.records]
    assert first.startswith("The producer cannot use Redis, its snapshots stay in memory")
    assert last.startswith("The producer can use Redis again")
    for partition in range(PARTITIONS):
        assert [wire.seq for wire in stream_of(stream.client, partition)] == [1, 2, 3]


def test_an_exception_before_any_reply_is_of_all_that_was_asked(session: ProducerSession) -> None:
    save(session, [0, 1])
    assert partitions_of(session.next_requests(1.0)) == [0, 1]
    assert session.on_error(ValueError("foreign"), 1.0) == 0.0
    assert session.health().away == (0, 1)
    save(session, [2])
    assert partitions_of(session.next_requests(1.0)) == [2]


def test_a_change_of_partitions_that_was_interrupted_leaves_none_unsent(
    stream: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ProducerSession(Options(partitions=1))
    session.divide(Partitioning(1, 1), 1.0)
    sender: Any = session._sender

    def interrupted() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(sender, "_add_states", interrupted)
        with pytest.raises(MemoryError):
            session.divide(Partitioning(1, 1).announced(4).changed(4), 1.0)
    for partition in range(4):
        assert session.accept(snapshot(trader_of(partition, 4))) is not None
    for _ in range(10):
        session.on_replies(stream.ask(session.next_requests(100.0)), 100.0)
    assert not session.depth


def test_what_is_asked_again_counts_among_the_entries_of_a_round(
    session: ProducerSession, stream: Counting
) -> None:
    """A fault left the request of one partition made and not sent."""
    claim_all(session, stream)
    save(session, [1], each=400)
    [made] = session.next_requests(1.0)
    save(session, [0], each=400)
    [other] = session.next_requests(1.0)
    assert (other.keys.partition, len(other)) == (0, 400)
    session.on_replies(stream.ask([other]), 1.0)
    assert session.next_requests(1.0) == [made]


def test_a_failure_of_what_has_moved_meanwhile_is_no_outage(
    session: ProducerSession, stream: Counting
) -> None:
    """A reply of the same round names fewer partitions: what waited in the others is sent elsewhere."""
    save(session)
    requests = session.next_requests(1.0)
    replies: list[Any] = list(stream.ask(requests))
    replies[-1] = AWAY
    last = requests[-1].keys.partition
    agreed = session.partitioning.announced(1).changed(1)
    on_reply = session._on_reply

    def changing(request: Request, reply: Any, now: float) -> None:
        on_reply(request, reply, now)
        session.divide(agreed, now)

    session._on_reply = changing  # type: ignore[method-assign]
    session.on_replies(replies, 2.0)
    assert not session.is_away(last)
    assert session.health().backend == "postgres"


def test_claims_of_a_round_are_made_known_elsewhere_in_one_round_trip(
    session: ProducerSession, stream: Counting
) -> None:
    """After a change of the number of partitions each new epoch is made known in others too."""
    session.divide(session.partitioning.announced(4).changed(4), 0.0)
    save(session)
    requests = session.next_requests(1.0)
    assert len(requests) > 1
    replies = stream.ask(requests)
    assert not any(isinstance(each, StreamUnavailable) for each in replies)
    assert [set(words) for words in stream.trips] == [{"EVALSHA"}, {"SCRIPT", "EVALSHA"}] * 2
    stream.trips.clear()
    assert not any(isinstance(each, StreamUnavailable) for each in stream.ask(requests))
    claims, known = stream.trips
    assert len(claims) == len(requests)
    assert len(known) > len(requests)


def test_greater_epochs_elsewhere_are_exceeded_and_a_claim_that_fails_is_alone(
    session: ProducerSession, stream: Counting
) -> None:
    session.divide(session.partitioning.announced(4).changed(4), 0.0)
    save(session)
    requests: list[Any] = list(session.next_requests(1.0))
    first, second, third = requests[:3]
    [(place, [trader_id, *_]), *_] = first.elsewhere().items()
    before: Any = stream.ask([first])[0]
    there = max(before) + 1_000
    stream.client.hset(Keys(place).epochs, trader_id, there)
    [(place, [unreadable, *_]), *_] = second.elsewhere().items()
    stream.client.hset(Keys(place).epochs, unreadable, "x")
    [broken, *_] = [each for each in third.elsewhere() if each not in first.elsewhere() | second.elsewhere()]
    stream.client.set(Keys(broken).epochs, "x")
    replies: list[Any] = stream.ask(requests)
    assert dict(zip([name for _, name in first.incarnations], replies[0], strict=True))[trader_id] > there
    [found] = [each for each in replies[1] if not isinstance(each, int)]
    assert repr(unreadable) in found.reason
    assert [type(each) for each in replies if isinstance(each, Exception)] == [StreamUnavailable]
    assert "WRONGTYPE" in str(replies[2])


def test_claims_wait_once_for_other_partitions_that_do_not_answer(
    session: ProducerSession, stream: Counting
) -> None:
    session.divide(session.partitioning.announced(4).changed(4), 0.0)
    save(session)
    requests = session.next_requests(1.0)
    answers: list[Any] = []
    run = stream._run

    def away(*arguments: Any) -> Any:
        answers.append(run(*arguments) if not answers else [RedisConnectionError("away")] * len(arguments[0]))
        return answers[-1]

    stream._run = away  # type: ignore[assignment, method-assign]
    replies = stream.ask(requests)
    assert len(answers) == 2
    assert [type(each) for each in replies] == [StreamUnavailable] * len(requests)


@pytest.mark.parametrize("error", [MemoryError("none"), SystemExit("foreign")])
def test_a_partition_that_raises_each_time_does_not_stop_those_behind_it(
    session: ProducerSession,
    stream: Counting,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    claim_all(session, stream)
    sender: Any = session._sender
    make = sender._make_request

    def makes(state: Any) -> None:
        if state.queue.keys.partition == 5:
            raise error
        make(state)

    with monkeypatch.context() as patch:
        patch.setattr(sender, "_make_request", makes)
        for now in (1.0, 2.0, 4.0):
            save(session)
            session.on_replies(stream.ask(session.next_requests(now)), now)
            assert session.depth == len(session._buffer.queues[5].items)
            assert session.health().away == (5,)
        assert session.sample().outages == 1
    [line] = [each.getMessage() for each in caplog.records]
    assert line.startswith("The producer failed to send for partition 5 of 16, its snapshots stay in memory")
    for _ in range(3):
        session.on_replies(stream.ask(session.next_requests(100.0)), 100.0)
    assert not session.depth
    assert numbers_in(stream)(5) == [0.0] * 4
    assert session.health().away == ()


def test_a_reply_that_cannot_be_applied_does_not_stop_those_behind_it(
    session: ProducerSession, stream: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_all(session, stream)
    sender: Any = session._sender
    apply = sender._apply_reply

    def applies(state: Any, now: float) -> None:
        if state.queue.keys.partition == 5:
            raise OSError("the spool's disk")
        apply(state, now)

    with monkeypatch.context() as patch:
        patch.setattr(sender, "_apply_reply", applies)
        for now in (1.0, 2.0, 4.0):
            save(session)
            session.on_replies(stream.ask(session.next_requests(now)), now)
            assert session.depth == len(session._buffer.queues[5].items)
            assert session.health().away == (5,)
    for _ in range(3):
        session.on_replies(stream.ask(session.next_requests(100.0)), 100.0)
    assert not session.depth
    assert numbers_in(stream)(5) == [0.0] * 4


def test_what_fails_behind_an_applied_reply_is_raised_when_the_others_are_applied(
    session: ProducerSession, stream: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_all(session, stream)
    save(session)
    replies = stream.ask(session.next_requests(1.0))

    def raises(_reason: str | None) -> None:
        raise MemoryError

    monkeypatch.setattr(session, "partitions_unread", raises)
    with pytest.raises(MemoryError):
        session.on_replies(replies, 1.0)
    assert not session.depth
    assert not session.health().away


def test_the_line_of_an_outage_has_the_reason_of_each(
    session: ProducerSession, stream: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    claim_all(session, stream)
    save(session)
    replies: list[Any] = list(stream.ask(session.next_requests(1.0)))
    replies[5], replies[1], replies[2] = StreamUnavailable("WRONGTYPE"), AWAY, AWAY
    session.on_replies(replies, 2.0)
    [line] = [each.getMessage() for each in caplog.records]
    assert line == (
        "The producer cannot use Redis for partitions 1, 2, 5 of 16, its snapshots stay in memory: "
        "partitions 1, 2 of 16: away; partition 5 of 16: WRONGTYPE"
    )


def test_each_failure_waits_for_what_it_took_itself(session: ProducerSession, stream: Counting) -> None:
    """A node of a cluster said nothing for 4 s: the one that Redis refused at once is tried much sooner."""
    claim_all(session, stream)
    save(session)
    silent, refused = StreamUnavailable("says nothing"), StreamUnavailable("WRONGTYPE")
    silent.waited_s = 4.0
    requests = session.next_requests(1.0)
    replies: list[Any] = list(stream.ask(requests))
    replies[1], replies[5] = silent, refused
    session.on_replies(replies, 5.0)
    [again] = session.next_requests(5.5)
    assert again is requests[5]
    session.on_replies([refused], 5.5)
    assert partitions_of(session.next_requests(8.0)) == [5]
    session.on_replies([refused], 8.0)
    assert partitions_of(session.next_requests(8.1)) == []
    assert partitions_of(session.next_requests(9.1)) == [1]


def test_a_partition_on_a_server_that_says_nothing_is_asked_alone_when_it_has_something(
    session: ProducerSession, stream: Counting
) -> None:
    """It had nothing to send when the server was found out: the others would wait for it once more."""
    claim_all(session, stream)
    save(session, [1])
    silent = StreamUnavailable("says nothing")
    silent.waited_s = 1.0
    session.next_requests(1.0)
    session.on_replies([silent], 2.0, {3: silent})
    save(session, [3, 4])
    assert partitions_of(session.next_requests(2.1)) == [4]
    assert session.is_doubtful(3)
    assert not session.is_away(3)
    session.on_replies([Admission(1, [])], 2.1)
    tried = []
    for now in (10.0, 20.0):
        [request] = session.next_requests(now)
        tried.append(request.keys.partition)
        session.on_replies(stream.ask([request]), now)
    assert sorted(tried) == [1, 3]
