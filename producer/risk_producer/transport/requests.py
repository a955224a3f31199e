"""The trader's side of Redis: claim epochs, admit a batch, read the newest admitted snapshot.

What is asked of Redis is a value (Claim, Admit), so that the same may be asked again.
Every trouble that Redis can have, from a refused connection to "OOM command not allowed", comes out as
StreamUnavailable with a reason a person can act on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import number_in, script
from risk_producer.contract.wire import EPOCH_MAX, epoch_in
from risk_producer.errors import StreamUnavailable
from risk_producer.transport.connect import (
    REDIS_ERRORS,
    RedisClient,
    beside,
    redis_client,
    rehearse,
    unreachable,
)

ANSWER_TIMEOUT_S: Final = 2.0
"""How long to wait for an answer of Redis, and for a connection."""

BATCH_MAX: Final = 500
"""Entries in one call; Lua's unpack() could take some thousands of traders."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for a new epoch for each trader."""

    keys: Keys
    incarnations: Sequence[tuple[int, str]]
    """Its number and its trader; where a trader comes again, its older incarnation is first."""


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


class Admit:
    """Ask to admit entries, in this order. The same Admit may be asked again after a lost answer."""

    __slots__ = ("_batch", "_incarnations", "_payloads", "accept_behind", "entries", "keys", "maxlen")

    def __init__(
        self, keys: Keys, maxlen: int, entries: Sequence[OutgoingEntry], *, accept_behind: bool = False
    ) -> None:
        """maxlen: entries that the stream may hold.

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
        self._payloads = [each.payload for each in entries]

    @property
    def arguments(self) -> list[bytes]:
        """ARGV of admit.lua."""
        if self.accept_behind:
            self._batch["accept_behind"] = True
        return [msgspec.json.encode(self._batch), *self._payloads]

    def admission(self, answer: Any) -> Admission:
        """The answer of admit.lua."""
        count, fenced, skipped = answer
        return Admission(
            int(count),
            [self._incarnations[int(number) - 1] for number in fenced],
            dict(map(self._skipped, skipped)),
        )

    def _skipped(self, answer: Any) -> tuple[tuple[str, int], Skipped]:
        trader_id, epoch = incarnation = self._incarnations[int(answer[0]) - 1]
        if _text(answer[1]) == "behind":
            reason = (
                f"Redis had lost the epochs of trader {trader_id!r}: it gave out {epoch}, and Postgres knows "
                f"{_text(answer[3])}"
            )
            return incarnation, Skipped("behind", int(answer[2]), reason)
        name, value = _text(answer[2]), _text(answer[3])
        field_name = f"{epoch}:{trader_id}" if name == "admitted" else trader_id
        return incarnation, Skipped(
            "unreadable", 0, _unreadable(self.keys, name, field_name, value, trader_id)
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


def unavailable(error: Exception) -> StreamUnavailable:
    """The error for the trader."""
    return StreamUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _admit_keys(keys: Keys) -> list[str]:
    return [
        *(keys.snapshots, keys.latest, keys.epochs, keys.admitted),
        *(keys.counters, keys.floors, keys.behind),
    ]


def _claim_keys(keys: Keys) -> list[str]:
    return [keys.epochs, keys.floors, keys.superseded]


def _traders(call: Claim) -> list[str]:
    return [trader_id for _, trader_id in call.incarnations]


def _epochs(call: Claim, answer: Any) -> list[int | Unreadable]:
    epochs: list[int | Unreadable] = []
    for (_, trader_id), each in zip(call.incarnations, answer, strict=True):
        if isinstance(each, list):
            name, value = map(_text, each)
            epochs.append(Unreadable(_unreadable(call.keys, name, trader_id, value, trader_id)))
        else:
            epochs.append(int(each))
    return epochs


def _unreadable(keys: Keys, name: str, field_name: str, value: str, trader_id: str) -> str:
    key = getattr(keys, name)
    return (
        f"field {field_name!r} of {key} in Redis holds {value!r}, which is no number that can be used; "
        f"the command to repair it: riskstream repair {shlex.quote(trader_id)}"
    )


def _text(raw: bytes | str) -> str:
    """A client of the trader's may decode responses."""
    return raw if isinstance(raw, str) else raw.decode()


def _payload(raw: bytes | str | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw


def _ask_latest(client: RedisClient, pipeline: Any, keys: Keys, trader_id: str) -> None:
    pipeline.hget(keys.latest, trader_id)
    pipeline.hget(keys.floors, "")
    pipeline.hget(keys.behind, trader_id)
    pipeline.execute_command("INFO", "server", **beside(client, keys.floors))


def _latest(answer: Any, trader_id: str) -> Latest:
    """The answers to HGET latest, HGET floors of the marker, HGET behind, INFO server."""
    payload, marker, behind, server = answer
    for each in (payload, marker, behind):
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
    return Latest(payload, marker is not None and (run_id is None or _text(marker) == _text(run_id)))


class TraderStream:
    """The streams of all partitions on one Redis. Thread-safe. All methods may raise StreamUnavailable."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._claim = client.register_script(script(__package__, "claim"))
        self._admit = client.register_script(script(__package__, "admit"))

    @classmethod
    def connect(cls, url: str) -> TraderStream:
        """A stream on a client of its own; connects when it is first asked something.

        A broken connection is replaced once without a word (it may have been idle for hours); what goes
        wrong then is said.
        """
        return cls(
            redis_client(
                url, answer_timeout_s=ANSWER_TIMEOUT_S, connect_timeout_s=ANSWER_TIMEOUT_S, retries=1
            )
        )

    def claim(self, call: Claim) -> list[int | Unreadable]:
        """A new epoch for each of call.incarnations, in their order."""
        try:
            return _epochs(call, self._claim(keys=_claim_keys(call.keys), args=_traders(call)))
        except REDIS_ERRORS as error:
            raise unavailable(error) from error

    def admit(self, call: Admit) -> Admission:
        """Put entries into the stream as far as there is room."""
        try:
            return call.admission(self._admit(keys=_admit_keys(call.keys), args=call.arguments))
        except REDIS_ERRORS as error:
            raise unavailable(error) from error

    def latest(self, keys: Keys, trader_id: str) -> Latest:
        """The newest admitted snapshot of a trader, and whether the answer can be relied on."""
        try:
            pipeline = self._client.pipeline(transaction=False)
            _ask_latest(self._client, pipeline, keys, trader_id)
            return _latest(pipeline.execute(raise_on_error=False), trader_id)
        except REDIS_ERRORS as error:
            raise unavailable(error) from error

    def unreachable(self, keys: Keys, error: StreamUnavailable, others: Iterable[Keys]) -> set[int]:
        """The partitions that are away too: on the server that did not answer about these keys."""
        streams = {other.snapshots: other.partition for other in others}
        away = unreachable(self._client, keys.snapshots, error.__cause__, streams)
        return {streams[stream] for stream in away}

    def rehearse(self) -> None:
        """Do all that comes before the first connection, so that what it needs is imported."""
        rehearse(self._client)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
