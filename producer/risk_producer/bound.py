"""One trader's handle of a producer, as bind() gives it out.

save() is for a trading loop and never raises because of a field: a snapshot that breaks a rule answers False,
like one for which there is no room, and is counted and logged. push() raises InvalidSnapshot.
"""

from __future__ import annotations

from datetime import datetime
from typing import NotRequired, Protocol, TypedDict, Unpack

from risk_producer.contract.rejected import record_invalid
from risk_producer.contract.snapshot import TRADER_ID_MAX, RiskSnapshot, plain_text
from risk_producer.errors import InvalidSnapshot
from risk_producer.load.sources import LoadedState


class SnapshotFields(TypedDict):
    """The fields of RiskSnapshot without trader_id, for type checkers; RiskSnapshot says what each is."""

    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: NotRequired[bool]
    paused_until: NotRequired[datetime | None]
    last_reset_time: NotRequired[datetime | None]
    recorded_at: NotRequired[datetime]
    trace_id: NotRequired[str]
    reason: NotRequired[str]


class _Rejects(Protocol):
    def _reject_invalid(self, trader_id: str, error: InvalidSnapshot) -> None:
        """Count a snapshot that was rejected because a field breaks a rule."""


class Producer(_Rejects, Protocol):
    """What BoundTrader needs of RiskProducer."""

    def save(self, snapshot: RiskSnapshot) -> bool: ...
    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None: ...
    def load(self, trader_id: str) -> LoadedState | None: ...


class AsyncProducer(_Rejects, Protocol):
    """What AsyncBoundTrader needs of AsyncRiskProducer."""

    async def save(self, snapshot: RiskSnapshot) -> bool: ...
    async def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None: ...
    async def load(self, trader_id: str) -> LoadedState | None: ...


class BoundTrader:
    """One trader's handle of a RiskProducer."""

    def __init__(self, producer: Producer, trader_id: str) -> None:
        """Raises InvalidSnapshot for what cannot be a trader's name."""
        self.trader_id = checked_trader_id(trader_id)
        self._producer = producer

    def save(self, **fields: Unpack[SnapshotFields]) -> bool:
        """producer.save() of a RiskSnapshot with these fields, e.g. save(daily_pnl=..., ...).

        False also where a field breaks a rule or is not known: counted, and logged once a minute.
        """
        try:  # in here, and not by _made(): two calls less on the trader's path
            snapshot = RiskSnapshot(trader_id=self.trader_id, **fields)
        except (TypeError, InvalidSnapshot) as error:
            _reject(self._producer, self.trader_id, error)
            return False
        return self._producer.save(snapshot)

    def push(self, *, timeout: float | None = None, **fields: Unpack[SnapshotFields]) -> None:
        """producer.push() of a RiskSnapshot with these fields. Raises InvalidSnapshot too."""
        self._producer.push(_made(self.trader_id, fields), timeout)

    def load(self) -> LoadedState | None:
        """producer.load() of this trader."""
        return self._producer.load(self.trader_id)


class AsyncBoundTrader:
    """One trader's handle of an AsyncRiskProducer."""

    def __init__(self, producer: AsyncProducer, trader_id: str) -> None:
        """Raises InvalidSnapshot for what cannot be a trader's name."""
        self.trader_id = checked_trader_id(trader_id)
        self._producer = producer

    async def save(self, **fields: Unpack[SnapshotFields]) -> bool:
        """As BoundTrader.save()."""
        try:
            snapshot = RiskSnapshot(trader_id=self.trader_id, **fields)
        except (TypeError, InvalidSnapshot) as error:
            _reject(self._producer, self.trader_id, error)
            return False
        return await self._producer.save(snapshot)

    async def push(self, *, timeout: float | None = None, **fields: Unpack[SnapshotFields]) -> None:
        """As BoundTrader.push()."""
        await self._producer.push(_made(self.trader_id, fields), timeout)

    async def load(self) -> LoadedState | None:
        """producer.load() of this trader."""
        return await self._producer.load(self.trader_id)


def checked_trader_id(trader_id: str) -> str:
    """The name as an exact str. Raises InvalidSnapshot for what cannot be a trader's name."""
    return plain_text("trader_id", trader_id, TRADER_ID_MAX, least=1)


def _made(trader_id: str, fields: SnapshotFields) -> RiskSnapshot:
    try:
        return RiskSnapshot(trader_id=trader_id, **fields)
    except TypeError as error:
        raise _invalid(trader_id, error) from None


def _reject(producer: _Rejects, trader_id: str, error: TypeError | InvalidSnapshot) -> None:
    invalid = _invalid(trader_id, error) if isinstance(error, TypeError) else error
    producer._reject_invalid(trader_id, invalid)


def _invalid(trader_id: str, error: TypeError) -> InvalidSnapshot:
    """For a field that is missing or not known, counted and logged; values raise InvalidSnapshot."""
    invalid = InvalidSnapshot(str(error))
    record_invalid(trader_id, invalid)
    return invalid
