"""load(): the newest state of a trader, its source, and the sources that could not be asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Final

from risk_producer.contract.identity import difference
from risk_producer.contract.keys import Keys
from risk_producer.contract.snapshot import TRADER_ID_MAX, RiskSnapshot, plain_text
from risk_producer.contract.wire import WireSnapshot, decode
from risk_producer.errors import InvalidSnapshot, StateUnknown
from risk_producer.load import postgres as postgres_state
from risk_producer.session.local import LocalState, Source

if TYPE_CHECKING:
    from risk_producer.flusher import Flusher
    from risk_producer.transport.requests import Latest

EPOCH_TIMEOUT_S: Final = 2.0
"""How long load() waits until Redis has given an epoch to what is in the spool."""

NOT_RESTORED: Final = (
    "Redis is new or has lost its data, and no worker has restored the traders' states from Postgres; "
    "start a worker, or give the database's URL"
)


class _OtherDatabase(Exception):
    """Redis and Postgres are not of one deployment."""


@dataclass(frozen=True, slots=True)
class LoadedState:
    """The newest known state of a trader."""

    snapshot: RiskSnapshot
    source: Source
    """Where it was found: this producer's memory, its spool, Redis, or Postgres."""
    age_s: float
    """Seconds from recorded_at to the moment of loading, by this machine's clock."""
    unanswered: tuple[str, ...] = ()
    """Sources that might know a newer state and could not be asked. Empty: there is no newer one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A state that was found in Redis or in Postgres."""

    epoch: int
    seq: int
    snapshot: RiskSnapshot
    source: Source


@dataclass(slots=True)
class LoadAnswers:
    """What Redis and Postgres answered to load()."""

    states: list[Stored] = field(default_factory=list)
    unanswered: list[tuple[Source, str]] = field(default_factory=list)
    """Each source that might know a newer state and did not answer, and why."""


def load(flusher: Flusher, database_url: str | None, trader_id: str) -> LoadedState | None:
    """The newest state of a trader by (epoch, seq); None: there is none, for certain.

    StateUnknown: it cannot be known now. InvalidSnapshot: trader_id is no trader's. A producer's own memory
    is newer than all that is stored, except where a newer producer exists. Waits for Redis and Postgres.
    """
    trader_id = plain_text("trader_id", trader_id, TRADER_ID_MAX, least=1)
    session = flusher.session
    local = session.local_state(trader_id)
    if not session.options.persistent:
        return None if local.snapshot is None else _loaded(local.snapshot, "memory", ())
    if local.source == "spool" and local.epoch is None:
        local = local._replace(epoch=_await_epoch(flusher, trader_id))
    answers = _ask(flusher, database_url, trader_id, has_local=local.snapshot is not None)
    state = _newest(trader_id, local, answers)
    if state is not None:
        session.loaded(state.snapshot)
    return state


def _ask(flusher: Flusher, database_url: str | None, trader_id: str, *, has_local: bool) -> LoadAnswers:
    """Ask Redis, and Postgres where it may know a newer state."""
    answers = LoadAnswers()
    restored, in_redis = True, False
    unread: str | None = None
    owners: dict[str, str] = {}
    try:
        for each, latest in _latest(flusher, trader_id):
            restored = restored and latest.restored
            in_redis = in_redis or latest.payload is not None
            unread = unread or latest.unread
            if latest.database is not None:
                owners[each.database] = latest.database
            if latest.payload is not None:
                answers.states.append(_of_redis(latest.payload, trader_id, each))
    except Exception as error:  # noqa: BLE001  whatever the client raises: Redis has not answered
        answers.unanswered.append(("redis", _reason(error)))
    else:
        flusher.session.partitions_unread(unread)
        if unread is not None:
            answers.unanswered.append(("redis", unread))
    if database_url is None:
        if not restored:
            answers.unanswered.append(("postgres", NOT_RESTORED))
    elif not has_local or not in_redis or not restored:
        try:
            namespace = flusher.session.options.namespace
            stored = postgres_state.fetch(database_url, trader_id, namespace)
            for key, owner in owners.items():
                if stored.identity and (differ := difference(key, owner, stored.identity)):
                    raise _OtherDatabase(differ)
            if stored.state is not None:
                answers.states.append(_stored(stored.state, trader_id, "postgres", "risk_state"))
        except _OtherDatabase as error:
            raise StateUnknown(f"whether {trader_id!r} has a state cannot be known: {error}") from None
        except Exception as error:  # noqa: BLE001  an answer that cannot be read is none
            answers.unanswered.append(("postgres", _reason(error)))
    return answers


def _latest(flusher: Flusher, trader_id: str) -> Iterator[tuple[Keys, Latest]]:
    """What Redis answers in each partition where the trader may be.

    Each of them tells what is agreed on about their number: a change that is seen there is followed.
    """
    session, stream = flusher.session, flusher.transport.connected()
    known = session.partitioning
    if not known.version:
        known = stream.agreed(session.keys(0)) or known
    asked: set[int] = set()
    while left := [partition for partition in known.places(trader_id) if partition not in asked]:
        keys = session.keys(left[0])
        latest = stream.latest(keys, trader_id)
        asked.add(left[0])
        yield keys, latest
        if latest.partitioning is not None:
            known = known.joined(latest.partitioning)


def _newest(trader_id: str, local: LocalState, answers: LoadAnswers) -> LoadedState | None:
    stored = max(answers.states, key=lambda each: (each.epoch, each.seq), default=None)
    unanswered = tuple(source for source, _ in answers.unanswered)
    if local.snapshot is not None and (stored is None or local.epoch is None or local.epoch >= stored.epoch):
        return _loaded(local.snapshot, local.source, unanswered)
    if stored is not None:
        return _loaded(stored.snapshot, stored.source, unanswered)
    if answers.unanswered:
        reasons = "; ".join(f"{source}: {reason}" for source, reason in answers.unanswered)
        raise StateUnknown(f"whether {trader_id!r} has a state cannot be known now ({reasons})")
    return None


def _await_epoch(flusher: Flusher, trader_id: str) -> int:
    """The epoch of what an earlier process left in the spool: without it there is no order.

    Times do not say which one is newer: a clock may have been replaced.
    """
    session = flusher.session

    def epoch() -> int | None:
        return session.local_state(trader_id).epoch

    session.hurry()
    if flusher.can_wait():
        session.waiters.wait_for(lambda: epoch() is not None or session.ended, monotonic() + EPOCH_TIMEOUT_S)
    known = epoch()
    if known is None:
        why = (
            session.held_reason(trader_id) or session.outage_reason(trader_id) or "Redis has not answered yet"
        )
        raise StateUnknown(
            f"the spool holds snapshots of {trader_id!r} that have no epoch yet, so whether a newer state is "
            f"stored cannot be known now ({why})"
        )
    return known


def _of_redis(payload: bytes, trader_id: str, keys: Keys) -> Stored:
    return _stored(decode(payload), trader_id, "redis", f"field {trader_id!r} of {keys.latest} in Redis")


def _stored(wire: WireSnapshot, trader_id: str, source: Source, where: str) -> Stored:
    if wire.trader_id != trader_id:
        raise InvalidSnapshot(
            f"{where} holds a snapshot of {wire.trader_id!r}; the command to repair it: "
            f"riskstream repair {shlex.quote(trader_id)}"
        )
    return Stored(wire.epoch, wire.seq, wire.snapshot, source)


def _loaded(snapshot: RiskSnapshot, source: Source, unanswered: tuple[str, ...]) -> LoadedState:
    age_s = (datetime.now(UTC) - snapshot.recorded_at).total_seconds()
    return LoadedState(snapshot, source, age_s, unanswered)


def _reason(error: Exception) -> str:
    """Without the name of the class where the message says all."""
    if isinstance(error, (StateUnknown, InvalidSnapshot)) or type(error).__name__.endswith("Unavailable"):
        return str(error)
    return f"{type(error).__name__}: {error}"
