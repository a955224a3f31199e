"""The worker's side of Redis: read the streams of a share of the partitions, take off what is stored, count.

What is in a stream is not yet stored, and what is stored leaves it. So there is no consumer group: reading
starts at the stream's beginning, and a successor of a dead worker finds everything where it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.exceptions import AuthenticationError, ResponseError

from risk_producer.contract import counters
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.contract.scripts import script
from risk_producer.contract.wire import FIELD
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import (
    NODE_ANSWER_S,
    REDIS_ERRORS,
    RedisClient,
    is_cluster,
    redis_client,
)
from risk_producer.transport.servers import (
    AWAY,
    Question,
    ScriptCall,
    ask,
    ask_each,
    probe_each,
    run_each,
    unreachable,
)
from risk_worker.drain.batch import Batch, Outcome, StreamEntry
from risk_worker.drain.errors import SourceUnavailable
from risk_worker.drain.ports import Piece
from risk_worker.stream import acknowledgement
from risk_worker.stream.acknowledgement import Acknowledged, Acknowledgement
from risk_worker.stream.bindings import Bindings
from risk_worker.stream.clocks import Clocks
from risk_worker.stream.epochs import Epochs
from risk_worker.stream.outages import PartitionOutages
from risk_worker.stream.server import why_refused

if TYPE_CHECKING:
    from risk_producer.settings import Settings

FORGET_AFTER_MS: Final = 24 * 3600 * 1000
"""How long at the least Redis remembers what it admitted under an epoch after a newer one was given out."""
FORGET_PAGE: Final = 1_000

_BEGINNING: Final = "0-0"

# Redis bounds a read by the number of entries of each stream alone, and any client may have put huge ones
# into them. So the number, of all streams together, starts small, grows while the reads are small, and
# shrinks after a large one.
_READ_BYTES: Final = 32 * 1024 * 1024
_FIRST_COUNT: Final = 4

# A cluster answers no read of several streams, so each is asked for by itself, and none of them can wait.
_POLL_S: Final = (0.004, 0.032)
"""Seconds between two looks for the first entry: at the beginning, and at the most."""


_ANSWER_S: Final = 10.0
"""How long to wait for an answer of Redis."""


def connect(url: str) -> RedisClient:
    """A client for the drain: answers that do not come are an error, not a hang."""
    answer_s = NODE_ANSWER_S if redis_address(url, "REDIS_URL").kind == "cluster" else _ANSWER_S
    return redis_client(url, answer_timeout_s=answer_s, connect_timeout_s=5, retries=10, health_check_s=30)


class Forget(msgspec.Struct):
    """The message to forget.lua."""

    keep_ms: int
    page: int
    """How many to look at."""


class Forgotten(msgspec.Struct):
    """The answer of forget.lua."""

    forgotten: int
    """How many."""


def _raw(answer: Any, **_options: object) -> Any:
    return answer


class _Partition:
    """One partition of a share: how far its stream is read, and what is known of its traders."""

    __slots__ = ("after", "clocks", "epochs", "in_hand", "keys", "name", "number", "stream")

    def __init__(self, number: int, keys: Keys) -> None:
        self.number = number
        self.keys = keys
        self.stream = self.keys.snapshots
        self.name = self.stream.encode()
        self.after = _BEGINNING
        self.in_hand = 0
        """Reads of it that are not acknowledged yet."""
        self.epochs = Epochs(keys)
        self.clocks = Clocks()

    def rewind(self) -> None:
        """From now on read again what is not acknowledged."""
        self.after = _BEGINNING
        self.in_hand = 0


_Found = dict[_Partition, list[StreamEntry]]
"""Partition -> what was read of its stream."""
_Answer = Acknowledged | Exception
"""Of acknowledge.lua, for one partition; or one of REDIS_ERRORS."""


class StreamSource:
    """The streams of a share of the partitions. Not thread-safe: one drain uses it.

    A partition that Redis answers with an error for, or whose node of a cluster does not answer, is left out,
    tried alone, and read again when it answers. So is one of another database.
    """

    def __init__(
        self,
        client: RedisClient,
        partitions: Iterable[int],
        *,
        batch_size: int = 10_000,
        interval_s: float = 0.0,
        block_s: float = 1.0,
        look: Callable[[], object] | None = None,
        outages: PartitionOutages | None = None,
        keyspace: Keyspace = NO_NAMESPACE,
        bindings: Bindings | None = None,
    ) -> None:
        """look: called before each read, for what has to be looked after in between.

        bindings: with the identity of the database that the drain stores into; None: it is not compared.

        partitions: the numbers of their streams. batch_size: of all streams together. interval_s: from a
        read that found something to the next one, where there is no backlog. outages: those of the time
        slices before.
        """
        self._client = client
        self._of_cluster = is_cluster(client)
        client.set_response_callback("XREAD", _raw)  # redis-py's own costs more than reading the entries
        self._partitions = [_Partition(number, keyspace.keys(number)) for number in sorted(partitions)]
        self._of = {each.stream: each for each in self._partitions}
        self._outages = PartitionOutages() if outages is None else outages
        self._outages.keyspace = keyspace
        self._outages.keep(each.number for each in self._partitions)
        self._bindings = bindings
        self._batch_size = batch_size
        self._count = min(_FIRST_COUNT, batch_size)
        self._turn = 0
        self.more = False
        self._interval_s = interval_s
        self._next_read_at = 0.0
        """Not sooner, so that a batch grows; monotonic."""
        self._block_s = max(0.001, min(block_s, NODE_ANSWER_S / 2) if self._of_cluster else block_s)
        self._look = look
        self._acknowledge = client.register_script(script(__package__, "acknowledge"))
        self._forget = client.register_script(script(__package__, "forget"))

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        client: RedisClient,
        partitions: Iterable[int],
        *,
        look: Callable[[], object] | None = None,
        outages: PartitionOutages | None = None,
        identity: str | None = None,
    ) -> StreamSource:
        """identity: of the database that the drain stores into."""
        return cls(
            client,
            partitions,
            batch_size=settings.batch_size,
            interval_s=settings.flush_interval_ms / 1000,
            look=look,
            outages=outages,
            keyspace=settings.keyspace,
            bindings=None if identity is None else Bindings(client, identity),
        )

    @property
    def where(self) -> str:
        """The streams, for a person."""
        if len(self._partitions) == 1:
            return f"the stream {self._partitions[0].stream}"
        return f"the streams of {len(self._partitions)} partitions"

    def read(self, *, wait: bool = True) -> Sequence[Piece]:
        """What comes after the last read, by stream; with wait, up to block_s is waited for a first entry."""
        if self._look is not None:
            self._look()
        if wait and (early_s := self._next_read_at - monotonic()) > 0:
            sleep(early_s)
        count = self._count
        found: _Found = {}
        try:
            grows = self._read(count, found, wait=wait)
            own = self._own(list(found))  # asked after reading: what was read is of the same data
        except REDIS_ERRORS as error:
            raise _unavailable(error) from error
        pieces = [(each.stream, found[each]) for each in self._partitions if each in own]
        if found:
            self._next_read_at = monotonic() + self._interval_s
        for each in own:
            each.in_hand += 1
        size = sum(len(entry.payload) for _, entries in pieces for entry in entries)
        if size > _READ_BYTES:
            self._count = max(1, sum(map(len, found.values())) * _READ_BYTES // size)
        elif grows and 4 * size <= _READ_BYTES:
            self._count = min(self._batch_size, 4 * count)
        return pieces

    def examine(self, batches: Sequence[Batch]) -> list[Batch]:
        """Make dead letters of snapshots whose epoch Redis did not give out to their trader.

        Returns the batches of which that is known; the others are read again later.
        """
        unknown = {
            self._of[batch.stream]: traders
            for batch in batches
            if (traders := self._of[batch.stream].epochs.unknown(batch))
        }
        try:
            answers = ask_each(
                self._client,
                [(each.stream, ("HMGET", each.keys.epochs, *traders)) for each, traders in unknown.items()],
            )
        except REDIS_ERRORS as error:
            raise _unavailable(error) from error
        answer_of = dict(zip(unknown, answers, strict=True))
        self._served({each: answer for each, answer in answer_of.items() if isinstance(answer, AWAY)})
        for each, answer in answer_of.items():
            if not isinstance(answer, AWAY):
                each.epochs.learn(unknown[each], answer)
        known = [batch for batch in batches if not isinstance(answer_of.get(self._of[batch.stream]), AWAY)]
        for batch in known:
            self._of[batch.stream].epochs.reject(batch)
        return known

    def length(self) -> int:
        """Entries that wait; in a key that is no stream there are none. Raises one of REDIS_ERRORS."""
        lengths = ask(self._client, [(each.stream, ("XLEN", each.stream)) for each in self._partitions])
        for length in lengths:
            if isinstance(length, Exception) and not str(length).startswith("WRONGTYPE"):
                raise length
        return sum(length for length in lengths if not isinstance(length, Exception))

    def is_empty(self) -> bool:
        """Whether everything that was in the streams is stored."""
        try:
            return self.length() == 0
        except REDIS_ERRORS:
            return False

    def rewind(self) -> None:
        """From now on read again what is not acknowledged."""
        for each in self._partitions:
            each.rewind()

    def acknowledge(
        self, batches: Sequence[Batch], outcomes: Sequence[Outcome], at: datetime | None = None
    ) -> None:
        """Take committed batches off their streams and count them, each in a script that may be repeated.

        at: when the COMMIT came; None: just now.
        """
        now = at or datetime.now(UTC)
        committed = {
            self._of[batch.stream]: (batch, outcome) for batch, outcome in zip(batches, outcomes, strict=True)
        }
        for partition, (batch, outcome) in committed.items():
            partition.clocks.compare(batch.last, acknowledgement.newest_times(batch, outcome))
        if self._outages:
            reachable = self._still_reachable(list(committed))
            committed = {each: of for each, of in committed.items() if each in reachable}
        database = "" if self._bindings is None else self._bindings.identity
        answers = self._report(
            {each: acknowledgement.whole(*of, now, database) for each, of in committed.items()}
        )
        again = {each: of for each, of in committed.items() if _needs_ids(answers[each])}
        if again:
            answers |= self._report(
                {each: acknowledgement.listed(*of, now, database) for each, of in again.items()}
            )
        for partition in self._served(answers):
            partition.in_hand = max(0, partition.in_hand - 1)  # 0: it was rewound meanwhile
            if self._outages:
                self._outages.record_success(partition.number)

    def failed(self, batches: Sequence[Batch]) -> None:
        """Count a failed try, as well as can be: the counts must not stand in the way of the next try."""
        questions: list[Question] = []
        for batch in batches:
            if self._of[batch.stream].number in self._outages:
                continue
            keys = self._of[batch.stream].keys
            per_trader: dict[str, int] = defaultdict(int)
            for each in batch.incarnations:
                per_trader[each.trader_id] += each.rows
            counts = [(keys.counters, counters.RETRIES, 1)]
            for trader_id, count in per_trader.items():
                counts += [(keys.attempts, trader_id, count), (keys.failures, trader_id, count)]
            questions += [(keys.snapshots, ("HINCRBY", *of)) for of in counts]
        try:
            ask_each(self._client, questions)  # a counter that cannot be counted is no reason to wait
        except REDIS_ERRORS as error:
            raise _unavailable(error) from error

    def forget(self) -> int:
        """Drop a page of what Redis remembers of incarnations that are long over, so that no client waits.

        Returns how many it dropped.
        """
        message = msgspec.json.encode(Forget(FORGET_AFTER_MS, FORGET_PAGE))
        answers = self._run(
            {
                each: (self._forget, [keys.superseded, keys.admitted, keys.epochs, keys.snapshots], [message])
                for each in self._partitions
                if each.number not in self._outages
                for keys in (each.keys,)
            },
        )
        away = {each: answer for each, answer in answers.items() if isinstance(answer, AWAY)}
        self._served(away)  # a key of another type hinders nothing else
        return sum(
            msgspec.json.decode(answer, type=Forgotten).forgotten
            for answer in answers.values()
            if not isinstance(answer, Exception)
        )

    def _read(self, count: int, found: _Found, *, wait: bool) -> bool:
        """Add what comes next, of all streams together no more than `count` entries.

        Returns whether a stream gave as many as it might.
        """
        self.more = False
        sound = self._partitions
        if self._outages:
            due = self._reachable([each for each in sound if each.number in self._outages])[:count]
            self._ask(due, len(due), found)
            sound = [each for each in sound if each.number not in self._outages]
            wait = wait and not found
            if not sound:
                if wait:
                    sleep(min(self._block_s, self._outages.next_due_s()))
                return False
        if count < len(sound):
            full = self._ask_few(sound, count, found)
            if wait and not found:
                full = self._ask(sound, len(sound), found, wait=True)
            self.more = bool(full)
            return self.more
        full = last = self._ask(sound, count, found, wait=wait)
        left = count - sum(map(len, found.values()))
        if full and left > 0 and len(sound) > 1:
            last = self._ask(full, left, found)  # what the others leave room for
        self.more = bool(last)
        return bool(full or last)

    def _ask_few(self, partitions: list[_Partition], count: int, found: _Found) -> list[_Partition]:
        """Ask for one entry of a few streams at a time, in turns, until some come. Returns who gave them."""
        for _ in range(0, len(partitions), count):
            turn = [partitions[(self._turn + at) % len(partitions)] for at in range(count)]
            self._turn = (self._turn + count) % len(partitions)
            full = self._ask(turn, count, found)
            if found:
                return full
        return []

    def _ask(
        self, partitions: list[_Partition], count: int, found: _Found, *, wait: bool = False
    ) -> list[_Partition]:
        """Add what comes next in these streams, `count` entries at the most.

        Returns those that gave as many as they might.
        """
        full: list[_Partition] = []
        asked = partitions[:count]
        if self._outages:
            due = [each for each in asked if self._outages.is_due(each.number)]
            own = self._own([each for each in due if each.number in self._outages])
            asked = [each for each in due if each in own or each.number not in self._outages]
        if not asked:
            return []
        most = count // len(asked)
        block_s = min(self._block_s, self._outages.next_due_s()) if wait else None
        for each, entries in self._answers(asked, most, block_s).items():
            if entries:
                each.after = entries[-1].id
                found[each] = found[each] + entries if each in found else entries
                if len(entries) == most:
                    full.append(each)
            elif each not in found:
                # Redis may have lost its data, and its clock may have gone back: ids that come may be smaller
                # than those that were. What is in hand would be read twice; with wait, nothing is.
                if wait or not each.in_hand:
                    each.rewind()
                if self._outages:
                    self._outages.record_success(each.number)
        return full

    def _own(self, partitions: list[_Partition]) -> list[_Partition]:
        """Those that are stored in this drain's database; the others are in an outage from now on."""
        if self._bindings is None or not partitions:
            return partitions
        of = {each.keys.database: each for each in partitions}
        problems = self._bindings.problems(of)
        return self._served({each: problems.get(name) for name, each in of.items()})

    def _reachable(self, partitions: list[_Partition]) -> list[_Partition]:
        """Those in an outage that it is time to try, and whose node answers at all."""
        due = {each.stream: each for each in partitions if self._outages.is_due(each.number)}
        problems = probe_each(self._client, due)
        return self._served({each: problems.get(stream) for stream, each in due.items()})

    def _still_reachable(self, partitions: list[_Partition]) -> list[_Partition]:
        """Those that no outage has come upon since they were read, or whose node answers again.

        The others are read again: what is committed is found there, and acknowledged then.
        """
        doubtful = [each for each in partitions if each.number in self._outages]
        lost = set(doubtful) - set(self._reachable(doubtful))
        for each in lost:
            each.rewind()
        return [each for each in partitions if each not in lost]

    def _answers(self, partitions: list[_Partition], count: int, block_s: float | None) -> _Found:
        """What each of the streams has; without those that Redis answers with an error for."""
        if self._of_cluster:
            return self._poll(partitions, count, block_s or 0.0)
        try:
            return self._xread(partitions, count, block_s)
        except ResponseError as error:
            if isinstance(error, AWAY):
                raise
            if len(partitions) == 1:
                self._served({partitions[0]: error})
                return {}
        # One of them is at fault, or more are, and the answer does not say which.
        found: _Found = {}
        for each in partitions:
            found |= self._answers([each], count, None)
        return found

    def _xread(self, partitions: list[_Partition], count: int, block_s: float | None) -> _Found:
        answer: Any = self._client.xread(
            {each.stream: each.after for each in partitions},
            count=count,
            block=None if block_s is None else max(1, round(block_s * 1000)),
        )
        rows_of = dict(answer) if answer else {}  # a dict by RESP3, pairs by RESP2
        return {each: _entries(rows_of.get(each.name, ())) for each in partitions}

    def _poll(self, partitions: list[_Partition], count: int, wait_s: float) -> _Found:
        """Ask a cluster again and again until a stream has something, for so many seconds at the most."""
        block = ("BLOCK", max(1, round(wait_s * 1000))) if wait_s and len(partitions) == 1 else ()
        until = monotonic() + wait_s
        pause_s, longest_s = _POLL_S
        while True:
            answers = ask_each(
                self._client,
                [
                    (each.stream, ("XREAD", "COUNT", count, *block, "STREAMS", each.stream, each.after))
                    for each in partitions
                ],
            )
            answer_of = dict(zip(partitions, answers, strict=True))
            found: _Found = {}
            for each in self._served(answer_of):
                [rows] = dict(answer_of[each]).values() if answer_of[each] else [()]
                found[each] = _entries(rows)
            left_s = until - monotonic()
            if any(found.values()) or len(found) < len(partitions) or left_s <= 0:
                return found
            sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, longest_s)

    def _served(self, answers: Mapping[_Partition, Any]) -> list[_Partition]:
        """Those of which the answer is no error; the others are in an outage from now on, and read again."""
        for each, answer in answers.items():
            if not isinstance(answer, Exception):
                continue
            each.rewind()
            if self._outages.is_due(each.number):  # with the first one that fails all others on its server do
                streams = unreachable(self._client, answer, self._of)
                self._fail(answer, {each, *(self._of[stream] for stream in streams)})
        return [each for each, answer in answers.items() if not isinstance(answer, Exception)]

    def _fail(self, error: Exception, partitions: set[_Partition]) -> None:
        for each in partitions:
            each.rewind()
        numbers = {each.number for each in partitions}
        self._outages.record_failure(
            sorted(numbers),
            error,
            alone=all(each.number in numbers or each.number in self._outages for each in self._partitions),
        )

    def _report(self, reports: Mapping[_Partition, Acknowledgement]) -> dict[_Partition, _Answer]:
        """Run acknowledge.lua, once for each partition."""
        answers = self._run(
            {each: (self._acknowledge, *_arguments(each, report)) for each, report in reports.items()},
            "did not take the acknowledgement",
        )
        return {
            each: answer if isinstance(answer, Exception) else self._answer_of(each, answer)
            for each, answer in answers.items()
        }

    def _answer_of(self, partition: _Partition, answer: bytes) -> _Answer:
        found = msgspec.json.decode(answer, type=Acknowledged)
        if not found.database:
            return found
        assert self._bindings is not None
        return self._bindings.problem(partition.keys.database, found.database.encode()) or found

    def _run(
        self, calls: Mapping[_Partition, ScriptCall], what: str = "did not answer"
    ) -> dict[_Partition, Any]:
        """The answers of scripts, errors included. Raises SourceUnavailable where no server answers."""
        try:
            return dict(zip(calls, run_each(self._client, list(calls.values())), strict=True))
        except REDIS_ERRORS as error:
            raise _unavailable(error, what) from error


def _unavailable(error: Exception, what: str = "did not answer") -> SourceUnavailable:
    if isinstance(error, AuthenticationError):  # it did answer
        return SourceUnavailable(why_refused(error))
    return SourceUnavailable(f"Redis {what}: {error}", no_answer=isinstance(error, AWAY))


def _needs_ids(answer: _Answer) -> bool:
    return isinstance(answer, Acknowledged) and answer.ids_needed


def _arguments(partition: _Partition, report: Acknowledgement) -> tuple[list[str], list[bytes]]:
    keys = partition.keys
    return [
        keys.snapshots,
        keys.counters,
        keys.attempts,
        keys.failures,
        keys.latency_ms,
        keys.latency_buckets,
        keys.admitted,
        keys.database,
    ], [msgspec.json.encode(report)]


def _entries(rows: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[StreamEntry]:
    return [_entry(entry_id, fields) for entry_id, fields in rows]


def _entry(entry_id: bytes, fields: Sequence[bytes]) -> StreamEntry:
    """fields: name, value, name, value, ..."""
    if len(fields) == 2 and fields[0] == FIELD:
        return StreamEntry(entry_id.decode(), fields[1])
    shown = msgspec.json.encode([_text(text) for text in fields])
    return StreamEntry(entry_id.decode(), shown, "a foreign entry: it expects the one field s")


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
