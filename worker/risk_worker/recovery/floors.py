"""Restore what Redis lost: the epoch of each trader that Postgres knows, and its newest state.

A Redis that comes back empty, or with an older file, gives out epochs by its clock, which may be behind those
in Postgres. So the worker compares each partition with risk_state whenever it finds a server of which that
was not noted: a page of traders at a time between two reads, in constant memory. The marker, field "" of the
floors, says how far the comparison has come, and at its end which run of the server was compared.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

import msgspec
import psycopg
from psycopg.rows import dict_row

from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import number_in, script
from risk_producer.contract.statements import statements
from risk_producer.contract.wire import EPOCH_MAX, VERSION, WireSnapshot, encode, epoch_in
from risk_producer.errors import RiskError
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_producer.transport.servers import AWAY, Question, ask, ask_each, run_each, unreachable
from risk_worker.database import connection as database
from risk_worker.database.owner import ConnectionOwner
from risk_worker.database.sqlstate import classify_error
from risk_worker.recovery import partitioning
from risk_worker.stream.bindings import Bindings
from risk_worker.stream.outages import PartitionOutages, named
from risk_worker.stream.partitions import Known

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from risk_producer.contract.snapshot import RiskSnapshot
    from risk_producer.settings import Settings

log = logging.getLogger("riskstream.floors")

LOOK_EVERY_S: Final = 3.0
BUDGET_S: Final = 0.1
"""Seconds that a comparison takes between two reads."""
PAGE: Final = 500

_REPEAT_EVERY_S: Final = 60.0
_NAMED_MAX: Final = 20
_COMPARING: Final = "comparing "

_SQL: Final = statements(__package__, "floors.sql")

ERRORS: Final = (*REDIS_ERRORS, psycopg.Error, RiskError)
"""What a comparison raises."""

_named: Final[set[tuple[int, str]]] = set()
"""(partition, trader) that this process has logged as behind."""


class _State(msgspec.Struct, omit_defaults=True):
    """A trader's state in Postgres."""

    trader: str
    epoch: str
    seq: int
    payload: str
    elsewhere: bool = False
    """Whether it came by another partition."""


class _Page(msgspec.Struct):
    """The message to restore.lua, which also gets the marker that is expected."""

    following: str
    """The marker after this page."""
    states: list[_State]
    """By trader."""


class _Restored(msgspec.Struct):
    """The answer of restore.lua."""

    restored: int = 0
    """How many traders the partition had lost something of."""
    overtaken: bool = False
    """Nothing was done: another worker was quicker, or Redis lost its data meanwhile."""


class NotAgreedOn(RiskError):
    """Postgres does not know the number of partitions, so which traders belong to one cannot be known."""


class Findings:
    """What comparisons found that a person should know: a line of each kind for all partitions of a share."""

    def __init__(self, keyspace: Keyspace = NO_NAMESPACE) -> None:
        self._keyspace = keyspace
        self._restored: dict[int, int] = {}  # partition -> traders
        self._behind: list[str] = []

    def add_restored(self, partition: int, traders: int) -> None:
        """A partition of Redis lacked the newest of some traders, and has it again."""
        if traders:
            self._restored[partition] = self._restored.get(partition, 0) + traders

    def add_behind(self, traders: Iterable[str]) -> None:
        """The newest snapshot of these traders is not known, and that was not logged yet."""
        self._behind += traders

    def log(self) -> None:
        """Log what was added since the last time."""
        if self._restored:
            log.warning(
                "%s in Redis, which is new or had lost data, got %d traders back from Postgres",
                _capital(named(self._restored, self._keyspace)),
                sum(self._restored.values()),
            )
        if self._behind:
            more = ", ..." if len(self._behind) > _NAMED_MAX else ""
            log.critical(
                "After Redis lost its data %d traders got an epoch smaller than Postgres knows, so their "
                "newest state cannot be known until they send another snapshot: %s. "
                "`riskstream repair TRADER` decides for the state in Postgres",
                len(self._behind),
                ", ".join(map(repr, self._behind[:_NAMED_MAX])) + more,
            )
        self._restored, self._behind = {}, []


class Floors(ConnectionOwner):
    """Compares one partition of a Redis with Postgres. Not thread-safe.

    All methods raise one of ERRORS where that is not possible now.
    """

    def __init__(
        self,
        client: RedisClient,
        database_url: str,
        partition: int,
        keyspace: Keyspace = NO_NAMESPACE,
        identity: str | None = None,
        findings: Findings | None = None,
    ) -> None:
        """partition: the number of its stream.

        identity: of the database; nothing is restored where Redis names another one. None: not asked.

        findings: gets what compare() would log.
        """
        super().__init__(database_url, database.STORE)
        self._client = client
        self.partition = partition
        self._keyspace = keyspace
        self._keys = keyspace.keys(partition)
        self._partitioning: Partitioning | None = None
        self._identity = identity
        self._findings = Findings(keyspace) if findings is None else findings
        self._restore = client.register_script(script(__package__, "restore"))

    def look(self) -> bool:
        """Go on with the comparison where one is due, for BUDGET_S at the most.

        Returns whether nothing is left to be done now.
        """
        done = self._compare(monotonic() + BUDGET_S)
        self._look_behind()
        return done

    def compare(self) -> None:
        """The whole comparison at once; logs what it found."""
        while not self._compare(monotonic() + BUDGET_S):
            pass
        self._look_behind()
        self._findings.log()

    def _compare(self, until: float) -> bool:
        """Go on with a comparison until a moment (monotonic). Returns whether none is left to be done."""
        marker, run_id = self._marker()
        while marker != run_id.encode():
            comparing = f"{_COMPARING}{run_id} "
            self._announce_partitioning()
            text = _text(marker)
            rows = self._page(text.removeprefix(comparing) if text.startswith(comparing) else "")
            following = f"{comparing}{rows[-1]['trader_id']}" if rows else run_id
            answer = self._restored_page(marker, following, rows)
            self._findings.add_restored(self.partition, answer.restored)
            if answer.overtaken:
                marker, run_id = self._marker()
            else:
                marker = following.encode()
            if (rows or answer.overtaken) and monotonic() >= until:
                return False
        self.close()
        return True

    def _ask(self, *commands: Sequence[Any]) -> list[Any]:
        """The answers of this partition's server. Raises the first error that is one."""
        answers = ask(self._client, [(self._keys.floors, words) for words in commands])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _marker(self) -> tuple[bytes, str]:
        """(the marker that is there, empty for none; the one of a whole comparison)."""
        floors, owner = self._keys.floors, self._keys.database
        commands = (("GET", owner), ("HGET", floors, ""), ("INFO", "server"))
        held, marker, server = ask(self._client, [(floors, words) for words in commands])
        if isinstance(marker, Exception):
            raise marker
        if self._identity is not None:
            bindings = Bindings(self._client, self._identity)
            bindings.require_own({owner: held} if held is not None else bindings.write([owner]))
        return marker or b"", _run_id(server)

    @property
    def name(self) -> str:
        """For a person."""
        return named([self.partition], self._keyspace)

    @property
    def key(self) -> str:
        """A key of the partition, which shows its server."""
        return self._keys.floors

    def questions(self) -> list[Question]:
        """What shows whether there is anything to do: is_done() reads the answers."""
        floors = self._keys.floors
        return [
            (floors, ("GET", self._keys.database)),
            (floors, ("HGET", floors, "")),
            (floors, ("HLEN", self._keys.behind)),
            (floors, ("INFO", "server")),
        ]

    def is_done(self, held: Any, marker: Any, behind: Any, server: Any) -> bool:
        """Whether the server was compared as a whole with this database, and the newest state of all traders
        is known."""
        own = self._identity is None or held == self._identity.encode()
        return bool(own and marker == _run_id(server).encode() and behind == 0)

    def _announce_partitioning(self) -> None:
        """See which traders may be here, and let those know that look here: before the comparison is over, so
        that load() never takes for complete what is in another partition too."""
        connection = self._connected()
        with connection.answered_within(database.ANSWER_S):
            self._partitioning = partitioning.stored(connection)
        if self._partitioning is None:
            raise NotAgreedOn("Postgres does not know yet how many partitions there are")
        partitioning.announce_to(self._client, self._keys, self._partitioning)

    def _page(self, after: str) -> list[dict[str, Any]]:
        connection = self._connected()
        with connection.answered_within(database.ANSWER_S), connection.transaction():
            connection.execute(_SQL["wait_briefly"])
            asked = {"after": after, "page": PAGE, "namespace": self._keys.namespace}
            return rows_of(connection, _SQL["page_of_states"], asked)

    def _restored_page(self, marker: bytes, following: str, rows: Sequence[dict[str, Any]]) -> _Restored:
        """Restore what this Redis lost of a page, and set the marker to `following`."""
        own = [row for row in rows if self._keys.partition in self._places(row["trader_id"])]
        elsewhere = self._admitted_elsewhere(own)
        states: list[_State] = []
        for row in own:
            if row["epoch"] > EPOCH_MAX or row["seq"] > EPOCH_MAX:
                log.critical(
                    "risk_state of trader %r has epoch %d and seq %d, which no producer can exceed: its "
                    "state does not move on any more. Correct that row and its history",
                    row["trader_id"],
                    row["epoch"],
                    row["seq"],
                )
                continue
            trader_id = row["trader_id"]
            payload = payload_of(row).decode()
            states.append(
                _State(trader_id, str(row["epoch"]), row["seq"], payload, elsewhere=trader_id in elsewhere)
            )
        keys = self._keys
        names = [keys.floors, keys.epochs, keys.latest, keys.admitted, keys.behind, keys.counters]
        message = msgspec.json.encode(_Page(following, states))
        [answer] = run_each(self._client, [(self._restore, names, [message, marker])])
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.decode(answer, type=_Restored)

    def _places(self, trader_id: str) -> tuple[int, ...]:
        return () if self._partitioning is None else self._partitioning.places(trader_id)

    def _admitted_elsewhere(self, rows: Iterable[dict[str, Any]]) -> set[str]:
        """The traders whose state in Postgres came by another partition: that it is not here is no loss."""
        rows_in: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            for partition in self._places(row["trader_id"]):
                if partition != self._keys.partition:
                    rows_in.setdefault(partition, []).append(row)
        questions: list[Question] = []
        for partition, of in rows_in.items():
            admitted = Keys(partition, self._keys.namespace).admitted
            fields = [f"{row['epoch']}:{row['trader_id']}" for row in of]
            questions.append((admitted, ("HMGET", admitted, *fields)))
        return {
            row["trader_id"]
            for of, answer in zip(rows_in.values(), ask_each(self._client, questions), strict=True)
            if not isinstance(answer, Exception)  # then it is taken for a loss
            for row, seq in zip(of, answer, strict=True)
            if (number_in(seq) or 0) >= row["seq"]
        }

    def _look_behind(self) -> None:
        """See which traders' newest snapshot is not known; clear those that have sent a newer one."""
        [behind] = self._ask(("HGETALL", self._keys.behind))
        if not behind:
            return
        traders = list(behind)
        [states] = self._ask(("HMGET", self._keys.latest, *traders))
        left, over = [], []
        for trader, state in zip(traders, states, strict=True):
            epoch = number_in(behind[trader])
            if epoch is not None and (epoch_in(state) or 0) >= epoch:
                over.append(trader)
            else:
                left.append(_text(trader))
        if over:
            self._ask(("HDEL", self._keys.behind, *over))
        self._findings.add_behind(each for each in left if (self.partition, each) not in _named)
        _named.difference_update([(self.partition, _text(trader)) for trader in traders])
        _named.update((self.partition, trader) for trader in left)


class FloorsOfShare:
    """Compares the partitions of a share; most looks are one question for all of them. Not thread-safe."""

    def __init__(
        self,
        settings: Settings,
        client: RedisClient,
        partitions: Iterable[int],
        outages: PartitionOutages | None = None,
        identity: str | None = None,
        known: Known | None = None,
    ) -> None:
        """identity: of the database. outages: the partitions that Redis does not serve now, left out here;
        gets those whose node does not answer.

        known: learns whether Postgres knows the number of partitions.
        """
        self._client = client
        url, keyspace = settings.require_database_url(), settings.keyspace
        self._findings = Findings(keyspace)
        self._floors = [
            Floors(client, url, partition, keyspace, identity, self._findings) for partition in partitions
        ]
        self._outages = PartitionOutages() if outages is None else outages
        self._known = Known() if known is None else known
        self._left: deque[Floors] = deque()
        self._look_at = 0.0
        self._logged_at = -math.inf

    def look(self) -> None:
        """Every LOOK_EVERY_S see where there is something to do; do it, for BUDGET_S with each call.

        Raises nothing: what cannot be compared now is logged, and never hinders storing.
        """
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._left = deque(self._not_done())
        while self._left and monotonic() < now + BUDGET_S:
            first = self._left[0]
            if first.partition in self._outages or self._is_done(first):
                self._left.popleft()
        if not self._left:
            self._findings.log()

    def compare(self) -> None:
        """All of them at once; logs what was found. Raises one of ERRORS."""
        for each in self._floors:
            while not each.look():
                pass
        self._findings.log()

    def _is_done(self, floors: Floors) -> bool:
        """After another look. What fails is not tried again before the next time: it would cost as long for
        each partition."""
        try:
            return floors.look()
        except ERRORS as error:
            floors.close()
            if isinstance(error, NotAgreedOn):
                self._known.in_postgres = False
            if isinstance(error, (psycopg.Error, NotAgreedOn)):  # Postgres is one for all of them
                self._left = deque([floors])
            else:
                away = unreachable(self._client, error, [each.key for each in self._left])
                self._left = deque(each for each in self._left if each is floors or each.key not in away)
            # That a server is away is logged where the streams are read.
            if monotonic() >= self._logged_at and not isinstance(error, AWAY):
                self._logged_at = monotonic() + _REPEAT_EVERY_S
                log.error(
                    "The worker cannot compare %s of Redis with Postgres, and tries again: %s",
                    floors.name,
                    classify_error(error) if isinstance(error, psycopg.Error) else error,
                )
            return True

    def _not_done(self) -> list[Floors]:
        served = [each for each in self._floors if each.partition not in self._outages]
        try:
            answers = ask_each(self._client, [question for each in served for question in each.questions()])
        except REDIS_ERRORS:
            return []  # it is logged where the streams are read
        found = [(each, answers[4 * at : 4 * at + 4]) for at, each in enumerate(served)]
        away: dict[Exception, list[int]] = {}
        for each, of in found:
            if isinstance(of[0], AWAY):
                away.setdefault(of[0], []).append(each.partition)
        for error, numbers in away.items():  # else the next read would wait for the same node once more
            alone = len(away) == 1 and len(numbers) == len(self._floors)
            self._outages.record_failure(numbers, error, alone=alone)
        return [each for each, of in found if each.partition not in self._outages and not each.is_done(*of)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._findings.log()
        for each in self._floors:
            each.close()


def _capital(text: str) -> str:
    """As the beginning of a sentence; names in it stay as they are."""
    return text[:1].upper() + text[1:]


def _run_id(server: Any) -> str:
    """Of the answer to INFO server. Where the user may not run INFO, the marker itself is the only sign."""
    return str(server.get("run_id", "compared") if isinstance(server, dict) else "compared")


def rows_of(
    connection: psycopg.Connection, query: LiteralString, parameters: dict[str, object]
) -> list[dict[str, Any]]:
    """The rows by name."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def payload_of(row: dict[str, Any]) -> bytes:
    """A row of risk_state in the wire format."""
    fields = {name: value for name, value in row.items() if name not in ("epoch", "seq")}
    for name in ("recorded_at", "last_reset_time", "paused_until"):
        if fields[name] is not None:
            fields[name] = fields[name].astimezone(UTC)
    wire = WireSnapshot(v=VERSION, epoch=row["epoch"], seq=row["seq"], **fields)
    return encode(cast("RiskSnapshot", wire), wire.epoch, wire.seq)  # it has the same fields


def _text(raw: bytes | str | None) -> str:
    if raw is None:
        return ""
    return raw if isinstance(raw, str) else raw.decode(errors="backslashreplace")
