"""What `riskstream status` asks of Redis: of the one with the streams, and of RQ's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Final

from risk_producer.contract import counters as names
from risk_producer.contract.keys import Keyspace
from risk_producer.settings import Settings, mask
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import Question, ask_each
from risk_worker.status.model import (
    PartitionStatus,
    QueueStatus,
    RedisStatus,
    RestoredStatus,
    WorkerStatus,
)
from risk_worker.status.side import Asked
from risk_worker.stream import partitions as in_use
from risk_worker.stream import progress, server
from risk_worker.stream.counters import numbers
from risk_worker.stream.workers import RegisteredWorker, registered_workers, shares_at_work

ANSWER_S: Final = 0.8
"""How long one answer of Redis is waited for."""
NODE_S: Final = 0.5
"""How long that of a node of a cluster is: one that says nothing is asked some three times."""
SAMPLE_S: Final = 0.3
"""What a rate is measured over where nothing was counted before."""

NODE_AWAY: Final = "its node of the Redis Cluster does not answer"

_TOTALS: Final = (
    names.ACCEPTED,
    names.STORED,
    names.DEAD,
    names.CONFLATED,
    names.DUPLICATES,
    names.FOREIGN,
)


@dataclass(frozen=True, slots=True)
class StreamsAnswer:
    """What it answered."""

    redis: RedisStatus
    partitions: tuple[PartitionStatus, ...] | None = None
    agreed: int | None = None
    traders: int | None = None
    totals: dict[str, int] | None = None
    owners: Mapping[str, bytes] | None = None
    """Key -> the identity of the database that stands there."""
    behind: int = 0
    restored: RestoredStatus | None = None


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the counters of a partition say, and when they were read."""

    at: float
    of: Mapping[int, Mapping[str, float]]


class Streams(Asked[StreamsAnswer]):
    """The Redis with the streams."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = mask(url)
        self._keyspace = settings.keyspace
        self._wish = settings.partitions
        self._maxlen = settings.stream_maxlen
        answer_s = NODE_S if redis_address(url).kind == "cluster" else ANSWER_S
        self._client = redis_client(url, answer_timeout_s=answer_s, connect_timeout_s=answer_s)
        self._before: _Counted | None = None

    def close(self) -> None:
        self._client.close()

    def without_answer(self, why: str) -> StreamsAnswer:
        return StreamsAnswer(RedisStatus(self._url, f"Redis {self._url} cannot be used: {why}"))

    def ask(self) -> StreamsAnswer:
        try:
            return self._answer()
        except REDIS_ERRORS as error:
            address = self._url.rpartition("@")[2].rpartition("://")[2].partition("/")[0]
            return StreamsAnswer(RedisStatus(self._url, server.why_refused(error, address)))

    def _answer(self) -> StreamsAnswer:
        client, keyspace = self._client, self._keyspace
        seen = in_use.look_at_all(client, keyspace, self._wish)
        caps, unknown = seen.caps(self._maxlen, self._wish), seen.away
        of_former = max(caps.values())  # of a partition that traders are not divided into any more
        present = [number for number in seen.numbers if number not in unknown]
        before = self._before
        if before is None or monotonic() - before.at < SAMPLE_S:
            before = self._count(present)
        servers = server.look(client, [keyspace.keys(number) for number in seen.numbers], keyspace)
        progressed = dict(zip(present, progress.read(client, present, keyspace), strict=True))
        questions: list[Question] = []
        for partition in present:
            of = keyspace.keys(partition)
            for words in (("HLEN", of.latest), ("HLEN", of.behind), ("GET", of.database), ("TIME",)):
                questions.append((of.snapshots, words))
        answers = ask_each(client, questions)
        sleep(max(0.0, before.at + SAMPLE_S - monotonic()))
        counted = self._before = self._count(present)
        seconds = max(0.001, counted.at - before.at)
        clocks = [each for each in answers[3::4] if not isinstance(each, Exception)]
        now_ms = 1000 * clocks[0][0] + clocks[0][1] / 1000 if clocks else 0.0
        return StreamsAnswer(
            RedisStatus(self._url, servers=tuple(servers)),
            tuple(
                replace(
                    _partition(
                        number,
                        progressed.get(number),
                        counted.of.get(number, {}),
                        _rate(before.of.get(number), counted.of.get(number), seconds),
                        caps.get(number, of_former),
                        now_ms,
                    ),
                    name=keyspace.name(number) if keyspace.is_several else "",
                )
                for number in seen.numbers
            ),
            seen.agreed,
            sum(each for each in answers[0::4] if isinstance(each, int)),
            {name: int(sum(of.get(name, 0) for of in counted.of.values())) for name in _TOTALS},
            {
                keyspace.keys(partition).database: held
                for partition, held in zip(present, answers[2::4], strict=True)
                if isinstance(held, bytes)
            },
            sum(each for each in answers[1::4] if isinstance(each, int)),
            _restored(counted.of, now_ms),
        )

    def _count(self, partitions: Sequence[int]) -> _Counted:
        keys = [self._keyspace.keys(partition) for partition in partitions]
        answers = ask_each(self._client, [(of.snapshots, ("HGETALL", of.counters)) for of in keys])
        return _Counted(
            monotonic(),
            {
                number: numbers(answer, of.counters, [])
                for number, of, answer in zip(partitions, keys, answers, strict=True)
            },
        )


def _partition(
    partition: int,
    seen: progress.PartitionProgress | None,
    counted: Mapping[str, float],
    rows_per_s: float | None,
    cap: int,
    now_ms: float,
) -> PartitionStatus:
    if seen is None or seen.error:
        away = seen is None or seen.away
        error = NODE_AWAY if seen is None else str(seen)
        return PartitionStatus(partition, cap=cap, stalled_s=None, error=error, away=away)
    committed_ms = counted.get(names.ACKNOWLEDGED_MS)
    return PartitionStatus(
        partition,
        in_flight=seen.length,
        cap=cap,
        oldest_s=seen.oldest_age_s,
        last_commit_s=None if committed_ms is None else max(0.0, (now_ms - committed_ms) / 1000),
        rows_per_s=rows_per_s,
        stalled_s=seen.stalled_s,
    )


def _rate(
    before: Mapping[str, float] | None, after: Mapping[str, float] | None, seconds: float
) -> float | None:
    if before is None or after is None:
        return None
    done = sum(after.get(name, 0) - before.get(name, 0) for name in (names.STORED, names.DEAD))
    return max(0.0, done / seconds)


def _restored(counted: Mapping[int, Mapping[str, float]], now_ms: float) -> RestoredStatus | None:
    found = [of for of in counted.values() if of.get(names.RESTORED_MS)]
    if not found:
        return None
    latest_ms = max(of[names.RESTORED_MS] for of in found)
    traders = int(sum(of.get(names.RESTORED, 0) for of in found))
    return RestoredStatus(traders, max(0.0, (now_ms - latest_ms) / 1000))


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """What it answered."""

    queue: QueueStatus
    workers: tuple[WorkerStatus, ...] | None = None


class Queue(Asked[QueueAnswer]):
    """RQ's Redis."""

    def __init__(self, url: str, keyspace: Keyspace, *, separate: bool) -> None:
        self._url = mask(url)
        self._keyspace = keyspace
        self._separate = separate
        self._client: RedisClient = redis_client(
            url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S, name="RQ_REDIS_URL"
        )

    def close(self) -> None:
        self._client.close()

    def without_answer(self, why: str) -> QueueAnswer:
        return QueueAnswer(QueueStatus(self._url, self._separate, why))

    def ask(self) -> QueueAnswer:
        try:
            workers = registered_workers(self._client, self._keyspace)
            shares = shares_at_work(self._client, workers, self._keyspace)
            suspended = bool(self._client.exists(f"{self._keyspace.rq_prefix}:suspended"))
        except REDIS_ERRORS as error:
            return self.without_answer(str(error))
        known = [each for each in workers if each.heartbeat is not None]  # the others have expired
        found = sorted((_worker(each, shares.get(each.key)) for each in known), key=_order)
        return QueueAnswer(QueueStatus(self._url, self._separate, suspended=suspended), tuple(found))


def _worker(found: RegisteredWorker, share: tuple[int, int] | None) -> WorkerStatus:
    return WorkerStatus(
        name=found.key.rpartition(b":")[2].decode(errors="backslashreplace"),
        host=found.host,
        pid=found.pid,
        since=found.born,
        state="alive" if found.is_alive else "gone" if found.is_gone else "silent",
        heard_s=found.heard_s if found.heard_s < float("inf") else None,
        share=None if share is None else share[0],
        shares=None if share is None else share[1],
        commit_wait_s=found.commit_wait_s,
        cannot_store=found.cannot_store,
    )


def _order(worker: WorkerStatus) -> tuple[bool, int, str, int]:
    return worker.state != "alive", 1_000 if worker.share is None else worker.share, worker.host, worker.pid
