"""The snapshot of a trader's risk state."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Final

import msgspec

from risk_producer.errors import InvalidSnapshot

TRADER_ID_MAX: Final = 255
TRACE_ID_MAX: Final = 255
REASON_MAX: Final = 1024
RECORDED_AT_MIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
RECORDED_AT_END: Final = datetime(2200, 1, 1, tzinfo=UTC)


class RiskSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a trader reports: its risk state at one moment.

    Checked where it is made; anything wrong raises InvalidSnapshot with the field's name.

    trader_id        1..255 characters
    daily_pnl        profit and loss since last_reset_time, in the account's currency
    drawdown_pct     distance of current_equity below peak_equity, in percent
    current_equity   in the account's currency
    peak_equity      in the account's currency
    trading_paused   whether the trader has stopped trading
    paused_until     when it means to go on; None: not paused, or without an end
    last_reset_time  when daily_pnl was last set to zero; default: now
    recorded_at      when the snapshot was taken; default: now; in the years 2000 to 2199
    trace_id         up to 255 characters, to find the snapshot in the trader's own logs
    reason           up to 1024 characters: why the state changed

    Numbers are finite. Times carry a time zone and are kept in UTC. Texts hold no NUL character.
    """

    trader_id: str
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool = False
    paused_until: datetime | None = None
    last_reset_time: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    recorded_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    trace_id: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        check_text("trader_id", self.trader_id, TRADER_ID_MAX, least=1)
        check_text("trace_id", self.trace_id, TRACE_ID_MAX)
        check_text("reason", self.reason, REASON_MAX)
        if not self._has_floats():
            self._keep_floats()
        if type(self.trading_paused) is not bool:
            raise InvalidSnapshot(f"trading_paused must be True or False, got {self.trading_paused!r}")
        if self.paused_until is not None:
            self._keep_utc("paused_until", self.paused_until)
        self._keep_utc("last_reset_time", self.last_reset_time)
        self._keep_utc("recorded_at", self.recorded_at)
        check_recorded_at(self.recorded_at)

    def _has_floats(self) -> bool:
        a, b, c, d = self.daily_pnl, self.drawdown_pct, self.current_equity, self.peak_equity
        return type(a) is type(b) is type(c) is type(d) is float and isfinite(a + b + c + d)

    def _keep_floats(self) -> None:
        for name in ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity"):
            value = getattr(self, name)
            if type(value) is not float:
                value = _as_float(name, value)
                msgspec.structs.force_setattr(self, name, value)
            if not isfinite(value):
                raise InvalidSnapshot(f"{name} must be a finite number, got {value!r}")

    def _keep_utc(self, name: str, value: object) -> None:
        if type(value) is datetime and value.tzinfo is UTC:
            return
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise InvalidSnapshot(f"{name} must be a datetime with a time zone, got {value!r}")
        try:
            msgspec.structs.force_setattr(self, name, value.astimezone(UTC))
        except OverflowError:
            raise InvalidSnapshot(f"{name} is out of range: {value!r}") from None


def check_text(name: str, value: str, most: int, *, least: int = 0) -> None:
    """Raise InvalidSnapshot unless value is a text of least..most characters that Postgres can hold."""
    if not isinstance(value, str):
        raise InvalidSnapshot(f"{name} must be a text, got {value!r}")
    if not least <= len(value) <= most:
        raise InvalidSnapshot(f"{name} must have {least}..{most} characters, got {len(value)}")
    if "\0" in value:
        raise InvalidSnapshot(f"{name} must not hold a NUL character, got {value!r}")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidSnapshot(f"{name} must be valid Unicode, got {value!r}") from None


def check_recorded_at(value: datetime) -> None:
    """Raise InvalidSnapshot for a time outside of the years 2000 to 2199, which only a mistake can give.

    The bounds are fixed, so that every machine judges alike; what its clock says about a time is a warning.
    """
    if not RECORDED_AT_MIN <= value < RECORDED_AT_END:
        raise InvalidSnapshot(
            f"recorded_at must lie between 2000-01-01 and 2199-12-31, got {value.isoformat()}"
        )


def _as_float(name: str, value: object) -> float:
    if isinstance(value, (str, bytes, bool)):
        raise InvalidSnapshot(f"{name} must be a number, got {value!r}")
    try:
        return float(value)  # type: ignore[arg-type]  # int, Decimal, numpy's numbers
    except (TypeError, ValueError, OverflowError):
        raise InvalidSnapshot(f"{name} must be a number, got {value!r}") from None
