"""The trader's side of Redis: claim epochs, admit a batch, read the newest admitted snapshot.

What is asked of Redis is a value (Claim, Admit), so that the same may be asked again.
Every trouble that Redis can have, from a refused connection to "OOM command not allowed", comes out as
StreamUnavailable with a reason a person can act on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from redis.exceptions import NoPermissionError

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import number_in, script
from risk_producer.contract.wire import EPOCH_MAX, epoch_in
from risk_producer.errors import StreamUnavailable
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import (
    NODE_ANSWER_S,
    REDIS_ERRORS,
    RedisClient,
    is_cluster,
    redis_client,
    rehearse,
)
from risk_producer.transport.servers import (
    Closing,
    Question,
    ScriptCall,
    Silent,
    ask,
    run_each,
    same_server,
    unreachable,
)
from risk_producer.transport.servers import probe as probe_server

ANSWER_TIMEOUT_S: Final = 2.0
"""How long to wait for an answer of Redis, and for a connection; of a node of a cluster for NODE_ANSWER_S."""

REPLICAS_TIMEOUT_MS: Final = 1_000
NODE_REPLICAS_TIMEOUT_MS: Final = 500
"""How long Redis, or a node of a cluster, waits for its replicas; less than what is waited for its answer, so
that it says how many confirmed."""

CLAIM_TRIES: Final = 5
"""How often epochs are claimed anew where a trader has a greater one in another partition."""

BATCH_MAX: Final = 500
"""Entries in one call; Lua's unpack() could take some thousands of traders."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for a new epoch for each trader."""

    keys: Keys
    incarnations: Sequence[tuple[int, str]]
    """Its number and its trader; where a trader comes again, its older incarnation is first."""
    partitioning: Partitioning | None = None
    """As it is known; with more than one number, traders may have epochs in other partitions too."""

    def __len__(self) -> int:
        return len(self.incarnations)

    def arguments(self, floors: Mapping[str, int] | None = None) -> list[bytes]:
        """ARGV of claim.lua. floors: epochs of traders elsewhere, which the new ones have to exceed."""
        message: dict[str, object] = {"traders": [trader_id for _, trader_id in self.incarnations]}
        if floors:
            message["floors"] = {trader_id: str(epoch) for trader_id, epoch in floors.items()}
        return [msgspec.json.encode(message)]

    def elsewhere(self) -> dict[int, list[str]]:
        """Other partitions where the traders may have had an epoch -> those traders."""
        found: dict[int, list[str]] = {}
        if self.partitioning is None or not self.partitioning.others:
            return found
        for trader_id in dict.fromkeys(trader_id for _, trader_id in self.incarnations):
            for partition in self.partitioning.places(trader_id):
                if partition != self.keys.partition:
                    found.setdefault(partition, []).append(trader_id)
        return found

    def epochs(self, answer: Any) -> list[int | Unreadable]:
        """The answer of claim.lua."""
        return [
            Unreadable(_unreadable(self.keys, claimed.hash, trader_id, claimed.value, trader_id))
            if claimed.hash
            else int(claimed.epoch)
            for (_, trader_id), claimed in zip(self.incarnations, _CLAIMS.decode(answer).claims, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Supersede:
    """Make epochs known in another partition of their traders, unless greater ones are there."""

    keys: Keys
    epochs: Mapping[str, int]
    """trader_id -> its new epoch."""

    def arguments(self) -> list[bytes]:
        """ARGV of supersede.lua."""
        return [
            msgspec.json.encode(
                {"traders": list(self.epochs), "epochs": [str(epoch) for epoch in self.epochs.values()]}
            )
        ]

    def answers(self, answer: Any) -> dict[str, int | Unreadable]:
        """The answer of supersede.lua: by trader, where a greater epoch is there, or what cannot be read."""
        claims = zip(self.epochs, _CLAIMS.decode(answer).claims, strict=True)
        return {
            trader_id: Unreadable(_unreadable(self.keys, found.hash, trader_id, found.value, trader_id))
            if found.hash
            else int(found.epoch)
            for trader_id, found in claims
            if found.hash or found.epoch
        }


class OutgoingEntry(msgspec.Struct, frozen=True, gc=False):
    """A stamped snapshot."""

    trader_id: str
    epoch: int
    seq: int
    merged: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Redis holds what is no epoch for a trader; the reason names it, and the command to repair it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why the entries of one trader and epoch were passed over, though the stream had room.

    behind: Postgres knows a newer epoch of the trader, which this Redis had lost; entries up to seq
    `admitted` are in the stream, the others are not and will not be under this epoch.
    unreadable: what Redis holds about this trader and epoch cannot be read; nothing of it was touched.
    """

    kind: Literal["behind", "unreadable"]
    admitted: int
    """The last seq that the stream has, or had, under this epoch; 0 where it is not known."""
    reason: str


@dataclass(frozen=True, slots=True)
class Latest:
    """What Redis answers about a trader's newest state."""

    payload: bytes | None
    """In the wire format; None: Redis has none."""
    restored: bool
    """False: this Redis may have lost data, and no worker has compared it with Postgres since."""
    partitioning: Partitioning | None = None
    """The partition's copy of it; None: there is none, or it cannot be read."""
    unread: str | None = None
    """Why the copy cannot be read: the trader's newest state may be in a partition that is not known here."""
    database: str | None = None
    """The identity of the database that the stream is stored in; None: no worker has written it yet."""


class _Claimed(msgspec.Struct):
    epoch: str = ""
    hash: str = ""
    """The name of the hash that cannot be read; then there is no epoch."""
    value: str = ""
    """What it holds."""


class _Claims(msgspec.Struct):
    """The answer of claim.lua."""

    claims: list[_Claimed]
    """By trader, in the order of the question."""


class _Skip(msgspec.Struct):
    """An incarnation that admit.lua passed over; see Skipped."""

    incarnation: int
    """Its number in the question, from 1 on."""
    why: Literal["behind", "unreadable"]
    admitted: str = "0"
    floor: str = ""
    """The epoch that Postgres knows; only where it is behind."""
    hash: str = ""
    """The name of the hash that cannot be read."""
    value: str = ""
    """What it holds."""


class _Admitted(msgspec.Struct):
    """The answer of admit.lua; numbers that may be great are texts."""

    count: int
    fenced: list[int] = []
    """Numbers of incarnations in the question, from 1 on."""
    skipped: list[_Skip] = []
    partitioning: str = ""
    """The partition's copy, where it is another one than in the question."""
    unread: str = ""
    """The error with which Redis answered where this user may not read the copy."""


_CLAIMS: Final = msgspec.json.Decoder(_Claims)
_ADMITTED: Final = msgspec.json.Decoder(_Admitted)


class Admit:
    """Ask to admit entries, in this order. The same Admit may be asked again after a lost answer."""

    __slots__ = ("_batch", "_incarnations", "_payloads", "accept_behind", "entries", "keys", "maxlen")

    def __init__(
        self,
        keys: Keys,
        maxlen: int,
        entries: Sequence[OutgoingEntry],
        *,
        accept_behind: bool = False,
        partitioning: Partitioning | None = None,
    ) -> None:
        """maxlen: entries that the stream may hold. partitioning: as it is known; None: it is not asked for.

        accept_behind: admit also what would be skipped as "behind", to history alone; may be set later.
        """
        self.keys = keys
        self.maxlen = maxlen
        self.entries = entries
        self.accept_behind = accept_behind
        numbers: dict[tuple[str, int], int] = {}
        incarnation_of = [
            numbers.setdefault((each.trader_id, each.epoch), len(numbers) + 1) for each in entries
        ]
        self._incarnations = list(numbers)
        # Columns: to decode an object for each entry would cost the script 0.3 us an entry more.
        self._batch: dict[str, object] = {
            "maxlen": maxlen,
            "traders": [trader_id for trader_id, _ in numbers],
            "epochs": [str(epoch) for _, epoch in numbers],
            "fields": [f"{epoch}:{trader_id}" for trader_id, epoch in numbers],
            "incarnation_of": incarnation_of,
            "seqs": [each.seq for each in entries],
        }
        merged = [each.merged for each in entries]
        if any(merged):
            self._batch["merged"] = merged
        if partitioning is not None:
            self._batch["partitioning"] = partitioning.text
        self._payloads = [each.payload for each in entries]

    def __len__(self) -> int:
        return len(self.entries)

    def arguments(self, *, replicated: bool = False) -> list[bytes]:
        """ARGV of admit.lua. replicated: WAIT follows on the same connection."""
        if self.accept_behind:
            self._batch["accept_behind"] = True
        if replicated:
            self._batch["replicated"] = True
        return [msgspec.json.encode(self._batch), *self._payloads]

    def admission(self, answer: Any) -> Admission:
        """The answer of admit.lua."""
        admitted = _ADMITTED.decode(answer)
        return Admission(
            admitted.count,
            [self._incarnations[number - 1] for number in admitted.fenced],
            dict(map(self._skipped, admitted.skipped)),
            Partitioning.read(admitted.partitioning),
            _unread(admitted.unread) if admitted.unread else None,
        )

    def _skipped(self, skip: _Skip) -> tuple[tuple[str, int], Skipped]:
        trader_id, epoch = incarnation = self._incarnations[skip.incarnation - 1]
        if skip.why == "behind":
            reason = (
                f"Redis had lost the epochs of trader {trader_id!r}: it gave out {epoch}, and Postgres knows "
                f"{skip.floor}"
            )
            return incarnation, Skipped("behind", int(skip.admitted), reason)
        field_name = f"{epoch}:{trader_id}" if skip.hash == "admitted" else trader_id
        return incarnation, Skipped(
            "unreadable", 0, _unreadable(self.keys, skip.hash, field_name, skip.value, trader_id)
        )


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an Admit."""

    count: int
    """How many entries, from the first on, are in the stream now, or were already; the rest found no room."""
    fenced: Sequence[tuple[str, int]]
    """Traders and epochs for which a newer epoch exists: their state in Redis was left to it."""
    skipped: Mapping[tuple[str, int], Skipped] = field(default_factory=dict)
    """Traders and epochs whose entries among the first `count` were not admitted by this call, and why."""
    partitioning: Partitioning | None = None
    """The partition's copy of it; None: it is the one in the Admit, or there is none that can be read."""
    unread: str | None = None
    """Why this user of Redis may not read the copy; None: it may."""


Request: TypeAlias = Claim | Admit
Reply: TypeAlias = Sequence[int | Unreadable] | Admission
"""To a Claim: a new epoch for each of its incarnations, in their order; to an Admit: what became of it."""


class NotReplicated(StreamUnavailable):
    """Fewer replicas than RISK_REPLICAS have confirmed in time what Redis took: the same is asked again."""


def unavailable(error: Exception) -> StreamUnavailable:
    """The error for the trader."""
    if isinstance(error, StreamUnavailable):
        return error
    made = StreamUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    made.__cause__ = error
    made.waited_s = getattr(error, "waited_s", 0.0)
    return made


def _admission(request: Admit, answer: Any) -> Admission | StreamUnavailable:
    return unavailable(answer) if isinstance(answer, Exception) else request.admission(answer)


def _admit_keys(keys: Keys) -> list[str]:
    return [
        *(keys.snapshots, keys.latest, keys.epochs, keys.admitted),
        *(keys.counters, keys.floors, keys.behind, keys.partitioning),
    ]


def _claim_keys(keys: Keys) -> list[str]:
    return [keys.epochs, keys.floors, keys.superseded]


def _unreadable(keys: Keys, name: str, field_name: str, value: str, trader_id: str) -> str:
    key = getattr(keys, name)
    return (
        f"field {field_name!r} of {key} in Redis holds {value!r}, which is no number that can be used; "
        f"the command to repair it: riskstream repair {shlex.quote(trader_id)}"
    )


def _unread(error: Exception | str) -> str:
    """Why it cannot be read how many partitions there are, and what to do."""
    cure = (
        "a worker writes it anew"
        if "WRONGTYPE" in str(error)
        else "the user needs the permission for GET: ACL SETUSER USER +get"
    )
    return f"Redis does not tell how many partitions there are ({error}); {cure}"


def _text(raw: bytes | str) -> str:
    """A client of the trader's may decode responses."""
    return raw if isinstance(raw, str) else raw.decode()


def _payload(raw: bytes | str | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw


def _no_partitioning(keys: Keys, copy: bytes | str) -> str:
    return (
        f"{keys.partitioning} in Redis holds {_text(copy)[:60]!r}, which does not say how many "
        "partitions there are; a worker writes it anew"
    )


def _latest(answer: Any, keys: Keys, trader_id: str) -> Latest:
    """The answers to HGET latest, HGET floors of the marker, HGET behind, GET database, GET partitioning,
    INFO server."""
    payload, marker, behind, database, partitioning, server = answer
    if isinstance(database, NoPermissionError):  # the permissions of a version before, which asked no GET
        database = None
    for each in (payload, marker, behind, database):
        if isinstance(each, REDIS_ERRORS):
            raise each
    payload = _payload(payload)
    if behind is not None and (epoch_in(payload) or 0) < (number_in(behind) or EPOCH_MAX):
        raise StreamUnavailable(
            f"after Redis lost its data it gave out an epoch to {trader_id!r} that is smaller than "
            f"{_text(behind)} in Postgres, so which snapshot is the newest cannot be known until the trader "
            f"has sent another one; or riskstream repair {shlex.quote(trader_id)} decides for Postgres"
        )
    # Where the user may not run INFO, or the server does not tell, any marker has to do.
    run_id = server.get("run_id") if isinstance(server, dict) else None
    denied = isinstance(partitioning, Exception)
    found = None if denied else Partitioning.read(partitioning)
    unread = _unread(partitioning) if denied else None
    if found is None and partitioning is not None and not denied:
        unread = _no_partitioning(keys, partitioning)
    return Latest(
        payload,
        marker is not None and (run_id is None or _text(marker) == _text(run_id)),
        found,
        unread,
        database.decode(errors="backslashreplace") if isinstance(database, bytes) else database,
    )


class _NewEpochs:
    """A claim that Redis has answered, on its way to be known in all partitions of its traders."""

    def __init__(self, claim: Claim, answer: Any) -> None:
        self.claim = claim
        self.floors: dict[str, int] = {}
        """trader_id -> a greater epoch that another partition has."""
        self.outdated = False
        """Greater ones were found since the last claim."""
        self.error: StreamUnavailable | None = None
        self._epochs: list[int | Unreadable] = []
        self.read(answer)

    @property
    def reply(self) -> Sequence[int | Unreadable] | StreamUnavailable:
        return self.error or self._epochs

    def read(self, answer: Any) -> None:
        """The answer of claim.lua."""
        self.outdated = False
        if isinstance(answer, Exception):
            self.error = unavailable(answer)
        else:
            self._epochs = self.claim.epochs(answer)

    def supersedes(self) -> list[Supersede]:
        """What makes them known, by other partition."""
        mine = {
            trader_id: epoch
            for (_, trader_id), epoch in zip(self.claim.incarnations, self._epochs, strict=True)
            if isinstance(epoch, int)
        }
        return [
            Supersede(Keys(partition, self.claim.keys.namespace), theirs)
            for partition, traders in self.claim.elsewhere().items()
            if (theirs := {trader_id: mine[trader_id] for trader_id in traders if trader_id in mine})
        ]

    def superseded(self, asked: Supersede, answer: Any) -> None:
        """The answer of supersede.lua."""
        if isinstance(answer, Exception):
            self.error = unavailable(answer)
            return
        for trader_id, found in asked.answers(answer).items():
            if isinstance(found, Unreadable):
                self._epochs = [
                    found if name == trader_id else epoch
                    for (_, name), epoch in zip(self.claim.incarnations, self._epochs, strict=True)
                ]
            else:
                self.floors[trader_id] = max(found, self.floors.get(trader_id, 0))
                self.outdated = True


class TraderStream:
    """The streams of all partitions on one Redis. Thread-safe. All methods may raise StreamUnavailable."""

    def __init__(self, client: RedisClient, replicas: int = 0) -> None:
        """replicas: how many have to confirm a claim or an admission before it is one."""
        self._client = client
        self._replicas = replicas
        self._claim = client.register_script(script(__package__, "epochs", "claim"))
        self._supersede = client.register_script(script(__package__, "epochs", "supersede"))
        self._admit = client.register_script(script(__package__, "admit"))

    @classmethod
    def connect(cls, url: str, replicas: int = 0) -> TraderStream:
        """A stream on a client of its own; connects when it is first asked something.

        A broken connection is replaced once without a word (it may have been idle for hours); what goes
        wrong then is an error.
        """
        answer_s = NODE_ANSWER_S if redis_address(url, "redis_url").kind == "cluster" else ANSWER_TIMEOUT_S
        client = redis_client(url, answer_timeout_s=answer_s, connect_timeout_s=ANSWER_TIMEOUT_S, retries=1)
        return cls(client, replicas)

    def ask(self, requests: Sequence[Request], *, probe: bool = False) -> list[Reply | StreamUnavailable]:
        """The reply to each request, in their order, or why there is none. One pipeline a server.

        probe: the server of the first did not answer before; see probe() of servers. The same may be asked
        again, whatever became of it.
        """
        silent: Silent = {}
        calls = [self._call(request) for request in requests]
        answers = self._run(calls, silent, requests[0].keys.snapshots if probe else None)
        outcomes = [
            _NewEpochs(request, answer) if isinstance(request, Claim) else _admission(request, answer)
            for request, answer in zip(requests, answers, strict=True)
        ]
        self._make_known([each for each in outcomes if isinstance(each, _NewEpochs)], silent)
        return [each.reply if isinstance(each, _NewEpochs) else each for each in outcomes]

    def _call(self, request: Request, floors: Mapping[str, int] | None = None) -> ScriptCall:
        if isinstance(request, Claim):
            return self._claim, _claim_keys(request.keys), request.arguments(floors)
        arguments = request.arguments(replicated=self._replicas > 0)
        return self._admit, _admit_keys(request.keys), arguments

    def _make_known(self, claims: Iterable[_NewEpochs], silent: Silent) -> None:
        """Make new epochs known in the other partitions of their traders, those of all claims together.

        An epoch has to be greater than the trader's in all partitions where it may have had one, and known
        there before it is used: what an older incarnation still sends there does not change the state any
        more.
        """
        left = [each for each in claims if each.error is None]
        for tried in range(CLAIM_TRIES):
            if tried:
                answers = self._run([self._call(each.claim, each.floors) for each in left], silent)
                for each, answer in zip(left, answers, strict=True):
                    each.read(answer)
            asked = [(each, one) for each in left if each.error is None for one in each.supersedes()]
            calls = [(self._supersede, _claim_keys(one.keys), one.arguments()) for _, one in asked]
            for (each, one), answer in zip(asked, self._run(calls, silent), strict=True):
                each.superseded(one, answer)
            left = [each for each in left if each.outdated and each.error is None]
            if not left:
                return
        for each in left:
            each.error = StreamUnavailable("other producers claim epochs for the same traders all the time")

    def agree(self, wish: Partitioning, keys: Keys) -> Partitioning | None:
        """What is agreed on about the number of partitions; where nothing is, the wish is from now on.

        keys: of partition 0. None: this user of Redis may not ask.
        """
        key = keys.partitioning
        questions: list[Question] = [(key, ("SETNX", key, wish.first().text)), (key, ("GET", key))]
        try:
            written, copy = ask(self._client, questions)
        except REDIS_ERRORS as error:
            raise unavailable(error) from error
        if isinstance(copy, NoPermissionError):  # the permissions of a version before, which asked no GET
            return None
        if copy is None and isinstance(written, NoPermissionError):
            raise StreamUnavailable(
                "nothing is agreed on yet about the number of partitions, and this user may not do it "
                f"({written}); start a worker, which does, or give the permission: ACL SETUSER USER +setnx"
            )
        for each in (copy, None if copy else written):
            if isinstance(each, Exception):
                raise unavailable(each) from each
        return self._readable(copy, keys) or wish.first()

    def agreed(self, keys: Keys) -> Partitioning | None:
        """As agree(), but where nothing is agreed on that stays so: None, as where this user may not ask."""
        try:
            return self._readable(self._client.get(keys.partitioning), keys)
        except NoPermissionError:
            return None
        except REDIS_ERRORS as error:
            raise unavailable(error) from error

    @staticmethod
    def _readable(copy: Any, keys: Keys) -> Partitioning | None:
        found = Partitioning.read(copy)
        if copy is not None and found is None:
            raise StreamUnavailable(_no_partitioning(keys, copy))
        return found

    def _run(self, calls: Sequence[ScriptCall], silent: Silent, probe: str | None = None) -> list[Any]:
        """The answers of scripts that end with a write, errors included; with replicas, once enough of them
        have confirmed it. probe: a key whose server is tried before.

        WAIT is about the last write of its own connection, so it goes behind the scripts over the same one,
        and what breaks is repeated as a whole.
        """
        closing, began = self._closing(), monotonic()
        try:
            if probe is not None:
                probe_server(self._client, probe)
            return run_each(self._client, calls, closing, silent)
        except REDIS_ERRORS as error:
            cast("Any", error).waited_s = monotonic() - began
            return [error] * len(calls)

    def _closing(self) -> Closing | None:
        if not self._replicas:
            return None
        wait_s = (NODE_REPLICAS_TIMEOUT_MS if is_cluster(self._client) else REPLICAS_TIMEOUT_MS) / 1000

        def problem(confirmed: int) -> Exception | None:
            if confirmed >= self._replicas:
                return None
            error = NotReplicated(
                f"{confirmed} of {self._replicas} replicas have confirmed within {wait_s:g} s what Redis took"
            )
            error.waited_s = wait_s
            return error

        return Closing(("WAIT", self._replicas, round(wait_s * 1000)), problem)

    def latest(self, keys: Keys, trader_id: str) -> Latest:
        """The newest admitted snapshot of a trader, and whether the answer can be relied on."""
        questions: list[Question] = [
            (keys.latest, ("HGET", keys.latest, trader_id)),
            (keys.floors, ("HGET", keys.floors, "")),
            (keys.behind, ("HGET", keys.behind, trader_id)),
            (keys.database, ("GET", keys.database)),
            (keys.partitioning, ("GET", keys.partitioning)),
            (keys.floors, ("INFO", "server")),
        ]
        try:
            return _latest(ask(self._client, questions), keys, trader_id)
        except REDIS_ERRORS as error:
            raise unavailable(error) from error

    def unreachable(
        self, failed: Iterable[tuple[Keys, StreamUnavailable]], waiting: Iterable[Keys]
    ) -> dict[int, StreamUnavailable]:
        """Of the partitions that wait and were not asked: which are on a server that did not answer, and its
        error."""
        failed = list(failed)
        asked = {keys.partition for keys, _ in failed}
        streams = {keys.snapshots: keys.partition for keys in waiting if keys.partition not in asked}
        found: dict[int, StreamUnavailable] = {}
        causes: set[int] = set()
        for keys, error in failed if streams else ():
            cause = error.__cause__
            if isinstance(error, NotReplicated):  # nor are the others of its server
                away = same_server(self._client, keys.snapshots, streams)
            elif id(cause) in causes:  # what a server did not answer has one error
                continue
            else:
                causes.add(id(cause))
                away = unreachable(self._client, cause, streams)
            found |= {streams[stream]: error for stream in away}
        return found

    def rehearse(self) -> None:
        """Do all that comes before the first connection, so that what it needs is imported."""
        rehearse(self._client)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
