"""Follows the streams as entries arrive, and takes nothing off them: no group, no cursor, no worker waits.

A reader waits in a blocking XREAD, to which Redis answers as soon as a producer's script has added something,
before any worker can take that off. What is added between the answer and the next read is seen too, while it
is still there: a worker needs the time of a COMMIT. Where a reader is slower than that, entries are missed;
the seq numbers of the traders show it.

One server is read by one thread. A cluster refuses a read of several partitions, so each has a thread there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, Full, Queue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, is_cluster, redis_client
from risk_producer.transport.servers import AWAY, Question, ask_each

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

BLOCK_MS: Final = 1_000
COUNT: Final = 1_000
"""Entries of a stream that are read at once."""
HELD: Final = 100
"""Answers that wait to be taken; a reader waits for room, and may miss what comes meanwhile."""
LOOK_S: Final = 5.0
"""How often the number of partitions is looked at."""
WRONG_AGAIN_S: Final = 1.0
"""How often a key that is no stream is tried again; the others are read meanwhile."""
PAUSE_S: Final = 0.5
"""Between two tries while Redis does not answer."""
_ANSWER_S: Final = 5.0
_BEGINNING: Final = b"0-0"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An entry of a stream."""

    partition: int
    """The number of its stream, see Keyspace."""
    entry_id: str
    fields: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Outage:
    """Redis, or a node of it, does not answer the reader of some partitions; or does again."""

    partitions: tuple[int, ...]
    error: str
    """"": it answers again."""


Answer = list[Arrival] | Outage


class Follower:
    """What arrives from now on, in all partitions or in those where one trader may be."""

    def __init__(self, url: str, keyspace: Keyspace, wish: int, trader: str | None = None) -> None:
        """wish: RISK_PARTITIONS, where nothing is agreed on in Redis. Connects to nothing yet."""
        self._client: Any = redis_client(url, answer_timeout_s=_ANSWER_S, connect_timeout_s=2.0)
        self._client.set_response_callback("XREAD", lambda answer, **_options: answer)
        self._keyspace = keyspace
        self._wish = wish
        self._trader = trader
        self._answers: Queue[Answer] = Queue(HELD)
        self._over = threading.Event()
        self._readers: dict[int, _Reader] = {}
        self._look_at = 0.0

    def take(self, wait_s: float) -> Answer:
        """What came next; nothing where nothing did for so long."""
        self._look()
        try:
            return self._answers.get(timeout=wait_s)
        except Empty:
            return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._client.close()

    def _look(self) -> None:
        """See which partitions there are, and read those that are not read yet."""
        if monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK_S
        copies = [each.keys(0).partitioning for each in self._keyspace.each]
        found: list[Any] = [None] * len(copies)
        try:
            found = ask_each(self._client, [(key, ("GET", key)) for key in copies])
        except REDIS_ERRORS:
            if self._readers:  # which say so
                return
        new: dict[int, Keys] = {}
        for one, raw in zip(self._keyspace.each, found, strict=True):
            agreed = Partitioning.read(raw) if isinstance(raw, bytes) else None
            known = agreed or Partitioning.wished(self._wish)
            partitions = range(known.width) if self._trader is None else known.places(self._trader)
            new |= {self._keyspace.number_of(keys): keys for keys in map(one.keys, partitions)}
        self._read({number: keys for number, keys in new.items() if number not in self._readers})

    def _read(self, new: dict[int, Keys]) -> None:
        groups = [{number: keys} for number, keys in new.items()] if is_cluster(self._client) else [new]
        for group in groups:
            if not group:
                continue
            reader = _Reader(self._client, group, self._answers, self._over)
            reader.start()
            self._readers |= dict.fromkeys(group, reader)


class _Reader(threading.Thread):
    """Reads some partitions of one server."""

    def __init__(
        self,
        client: RedisClient,
        partitions: Mapping[int, Keys],
        answers: Queue[Answer],
        over: threading.Event,
    ) -> None:
        super().__init__(name="follower", daemon=True)
        self._client = client
        self._of = {keys.snapshots.encode(): number for number, keys in partitions.items()}
        self._after: dict[bytes, bytes] = {}
        """Stream -> the last id that was read, or was there before; of those that can be read."""
        self._answers = answers
        self._over = over
        self._away: dict[int, str] = {}
        """Partition -> why it cannot be read."""

    def run(self) -> None:
        look_at = 0.0
        while not self._over.is_set():
            try:
                if monotonic() >= look_at:
                    wrong = self._find_ends()
                    look_at = monotonic() + WRONG_AGAIN_S if wrong else math.inf
                    self._report(wrong)
                found = self._wait_for_more() if self._after else []
            except Exception as error:  # noqa: BLE001  # a client that is closed raises what it likes
                look_at = 0.0
                if isinstance(error, AWAY) or not isinstance(error, ResponseError):  # else it is of a key
                    self._report(dict.fromkeys(self._of.values(), str(error) or type(error).__name__))
                self._over.wait(PAUSE_S)
            else:
                if found:
                    self._put(found)
                elif not self._after:
                    self._over.wait(PAUSE_S)

    def _find_ends(self) -> dict[int, str]:
        """Begin behind what is there now; after an outage behind what was read, unless Redis lost it.

        Returns which partitions cannot be read, and why; Redis would refuse to read the others with them.
        """
        questions: list[Question] = [
            (name.decode(), ("XREVRANGE", name, "+", "-", "COUNT", 1)) for name in self._of
        ]
        wrong: dict[int, str] = {}
        for name, newest in zip(self._of, ask_each(self._client, questions), strict=True):
            if isinstance(newest, AWAY):
                raise newest
            if isinstance(newest, Exception):
                self._after.pop(name, None)
                wrong[self._of[name]] = str(newest)
                continue
            last = newest[0][0] if newest else _BEGINNING
            if name not in self._after:
                self._after[name] = last
            elif _number(last) < _number(self._after[name]):
                self._after[name] = _BEGINNING  # what is there came after the loss
        return wrong

    def _wait_for_more(self) -> list[Arrival]:
        streams = [name.decode() for name in self._after]
        words = ("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS", *streams, *self._after.values())
        [answer] = ask_each(self._client, [(streams[0], words)])
        if isinstance(answer, Exception):
            raise answer
        found: list[Arrival] = []
        for name, entries in dict(answer).items() if answer else ():
            self._after[name] = entries[-1][0]
            for entry_id, fields in entries:
                pairs = dict(zip(fields[0::2], fields[1::2], strict=True))
                found.append(Arrival(self._of[name], entry_id.decode(), pairs))
        return found

    def _report(self, wrong: dict[int, str]) -> None:
        """Say which partitions cannot be read any more, and which can again; each once."""
        new = {partition: error for partition, error in wrong.items() if partition not in self._away}
        for error in dict.fromkeys(new.values()):
            self._put(Outage(tuple(each for each, why in new.items() if why == error), error))
        again = tuple(each for each in self._away if each not in wrong)
        if again:
            self._put(Outage(again, ""))
        self._away = wrong

    def _put(self, answer: Answer) -> None:
        while not self._over.is_set():
            try:
                self._answers.put(answer, timeout=1.0)
                return
            except Full:
                continue


def _number(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, count = entry_id.partition(b"-")
    return int(milliseconds), int(count or 0)
