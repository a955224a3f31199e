"""The snapshot of a trader's risk state, and what its fields may be made of.

What comes in may be of any class: a pandas.Timestamp, a numpy number, an enum, a mock. What a snapshot holds
is of exact plain types (str, float, bool, datetime in UTC), so that nothing after this place meets anything
else, least of all the encoder. Where the plain base type has the value, no method that a foreign class
overrides is relied on, and whatever such a method raises becomes InvalidSnapshot.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from operator import index
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr

from risk_producer.contract.rejected import record_invalid
from risk_producer.errors import InvalidSnapshot

TRADER_ID_MAX: Final = 255
TRACE_ID_MAX: Final = 255
REASON_MAX: Final = 1024
RECORDED_AT_MIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
RECORDED_AT_END: Final = datetime(2200, 1, 1, tzinfo=UTC)
_EXACT_UP_TO: Final = 2**53
"""Up to here a float holds every integer; a greater number has to be one that a float holds."""

_SHOWN_MAX: Final = 80
_TIME_FIELDS: Final = (
    *("year", "month", "day", "hour", "minute", "second", "microsecond"),
    *("tzinfo", "fold"),
)
_NUMBERS: Final = ("daily_pnl", "drawdown_pct", "current_equity", "peak_equity")


class RiskSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a trader reports: its risk state at one moment.

    Checked where it is made; anything wrong raises InvalidSnapshot with the field's name, and is counted and
    logged by the library, whatever becomes of the exception (risk_producer_invalid_total).

    trader_id        1..255 characters
    daily_pnl        profit and loss since last_reset_time, in the account's currency
    drawdown_pct     distance of current_equity below peak_equity, in percent
    current_equity   in the account's currency
    peak_equity      in the account's currency
    trading_paused   whether the trader has stopped trading
    paused_until     when it means to go on; None: not paused, or without an end
    last_reset_time  when daily_pnl was last set to zero; None: as in this trader's snapshot before, which the
                     producer fills in when it accepts the snapshot; recorded_at, where it knows of none
    recorded_at      when the snapshot was taken; default: now; in the years 2000 to 2199
    trace_id         up to 255 characters, to find the snapshot in the trader's own logs
    reason           up to 1024 characters: why the state changed

    Numbers are finite and kept as floats, rounded to the nearest one as float() does; beyond 2**53, and where
    rounding would give 0, they have to be exactly what a float can hold. Times carry a time zone and are kept
    in UTC, cut to microseconds. Texts hold no NUL character.
    """

    trader_id: str
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool = False
    paused_until: datetime | None = None
    last_reset_time: datetime | None = None
    recorded_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    trace_id: str = ""
    reason: str = ""

    def __post_init__(self, plain: type[datetime] = datetime) -> None:
        # On the trader's path: what is plain and right already passes here, without a call of Python. This
        # quick way accepts, and never refuses: what it does not accept, _make_plain() converts or refuses.
        # plain: the real class; freezegun puts another one into a module's globals.
        try:
            if not (
                type(self.daily_pnl) is float
                and type(self.drawdown_pct) is float
                and type(self.current_equity) is float
                and type(self.peak_equity) is float
            ):
                self._keep_floats()
            if (
                isfinite(self.daily_pnl + self.drawdown_pct + self.current_equity + self.peak_equity)
                and type(self.trading_paused) is bool  # type: ignore[redundant-expr]
                and (
                    self.paused_until is None
                    or (type(self.paused_until) is plain and self.paused_until.tzinfo is UTC)
                )
                and (
                    self.last_reset_time is None
                    or (type(self.last_reset_time) is plain and self.last_reset_time.tzinfo is UTC)
                )
                and type(self.recorded_at) is plain
                and self.recorded_at.tzinfo is UTC
                and 2000 <= self.recorded_at.year < 2200
                and type(self.trader_id) is str
                and 0 < len(self.trader_id) <= TRADER_ID_MAX
                and "\0" not in self.trader_id
                and (self.trader_id.isascii() or _is_unicode(self.trader_id))
                and type(self.trace_id) is str
                and (
                    not self.trace_id
                    or (
                        len(self.trace_id) <= TRACE_ID_MAX
                        and "\0" not in self.trace_id
                        and (self.trace_id.isascii() or _is_unicode(self.trace_id))
                    )
                )
                and type(self.reason) is str
                and (
                    not self.reason
                    or (
                        len(self.reason) <= REASON_MAX
                        and "\0" not in self.reason
                        and (self.reason.isascii() or _is_unicode(self.reason))
                    )
                )
            ):
                return
            self._make_plain()
        except InvalidSnapshot as error:
            self._report(error)
            raise

    def _keep_floats(self) -> None:
        for name in _NUMBERS:
            value: object = getattr(self, name)
            if type(value) is not float:
                force_setattr(self, name, plain_number(name, value))

    def _make_plain(self) -> None:
        """Convert each field. Raises InvalidSnapshot that names the first one that breaks a rule."""
        self._keep("trader_id", plain_text("trader_id", self.trader_id, TRADER_ID_MAX, least=1))
        self._keep("trace_id", plain_text("trace_id", self.trace_id, TRACE_ID_MAX))
        self._keep("reason", plain_text("reason", self.reason, REASON_MAX))
        for name in _NUMBERS:
            plain_number(name, getattr(self, name))
        self._keep("trading_paused", plain_flag("trading_paused", self.trading_paused))
        if self.paused_until is not None:
            self._keep("paused_until", plain_time("paused_until", self.paused_until))
        if self.last_reset_time is not None:
            self._keep("last_reset_time", plain_time("last_reset_time", self.last_reset_time))
        self._keep("recorded_at", plain_time("recorded_at", self.recorded_at))
        check_recorded_at(self.recorded_at)

    def _keep(self, name: str, value: object) -> None:
        if getattr(self, name) is not value:
            force_setattr(self, name, value)

    def _report(self, error: InvalidSnapshot) -> None:
        trader_id: Any = self.trader_id
        record_invalid(str.__str__(trader_id) if issubclass(type(trader_id), str) else "", error)


def with_last_reset(snapshot: RiskSnapshot, last_reset_time: datetime) -> RiskSnapshot:
    """A copy with this last_reset_time, an exact datetime in UTC. Checks nothing anew."""
    copied: RiskSnapshot = snapshot.__copy__()  # type: ignore[attr-defined]  # quicker than copy.copy()
    force_setattr(copied, "last_reset_time", last_reset_time)
    return copied


def plain_text(name: str, value: object, most: int, *, least: int = 0) -> str:
    """The text as an exact str, of least..most characters that Postgres can hold, or InvalidSnapshot."""
    if type(value) is str:
        text = value
    elif issubclass(type(value), str):
        text = str.__str__(value)  # the characters, whatever str() of an enum says
    else:
        raise InvalidSnapshot(f"{name} must be a text, got {shown(value)}")
    check_text(name, text, most, least=least)
    return text


def check_text(name: str, value: str, most: int, *, least: int = 0) -> None:
    """Raise InvalidSnapshot unless value is a text of least..most characters that Postgres can hold."""
    if not least <= len(value) <= most:
        raise InvalidSnapshot(f"{name} must have {least}..{most} characters, got {len(value)}")
    if "\0" in value:
        raise InvalidSnapshot(f"{name} must not hold a NUL character, got {shown(value)}")
    if not _is_unicode(value):
        raise InvalidSnapshot(f"{name} must be valid Unicode, got {shown(value)}")


def plain_number(name: str, value: object) -> float:
    """The number as an exact, finite float, or InvalidSnapshot. Rounded as float() does, up to 2**53."""
    if type(value) is float:
        number = value
    elif type(value) is int and -_EXACT_UP_TO <= value <= _EXACT_UP_TO:
        return float(value)
    else:
        try:
            number = _as_float(name, value)
        except InvalidSnapshot:
            raise
        except Exception:  # noqa: BLE001  whatever a foreign class raises
            raise InvalidSnapshot(f"{name} must be a number, got {shown(value)}") from None
    if not isfinite(number):
        raise InvalidSnapshot(f"{name} must be a finite number, got {shown(value)}")
    return number


def plain_flag(name: str, value: object) -> bool:
    """The flag as an exact bool, or InvalidSnapshot. numpy's bool is one; 1 and 0 are not."""
    if type(value) is bool:
        return value
    if _is_numpy_bool(type(value)):
        return bool(value)
    raise InvalidSnapshot(f"{name} must be True or False, got {shown(value)}")


def plain_time(name: str, value: object, plain: type[datetime] = datetime) -> datetime:
    """The time as an exact datetime in UTC, cut to microseconds, or InvalidSnapshot."""
    try:
        time = _as_datetime(value, plain)
        if time is not None and time.utcoffset() is not None:
            return time.astimezone(UTC)
    except OverflowError:
        raise InvalidSnapshot(f"{name} is out of range: {shown(value)}") from None
    except Exception:  # noqa: BLE001  whatever a foreign class or its time zone raises
        time = None
    raise InvalidSnapshot(f"{name} must be a datetime with a time zone, got {shown(value)}")


def check_recorded_at(value: datetime) -> None:
    """Raise InvalidSnapshot for a time outside of the years 2000 to 2199, which only a mistake can give.

    The bounds are fixed, so that every machine decides alike; what its clock says about a time is a warning.
    """
    if not RECORDED_AT_MIN <= value < RECORDED_AT_END:
        raise InvalidSnapshot(
            f"recorded_at must lie between 2000-01-01 and 2199-12-31, got {value.isoformat()}"
        )


def shown(value: object) -> str:
    """The value for a message: short, and whatever its repr() does."""
    try:
        text = str.__str__(repr(value))
    except Exception:  # noqa: BLE001
        return f"a value of {type.__repr__(type(value))} that cannot be shown"
    text = text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which no encoding of Unicode can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_float(name: str, value: Any) -> float:
    """May raise anything."""
    kind = type(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, (str, bytes, bytearray, bool)) or _is_numpy_bool(kind):
        raise TypeError
    if getattr(value, "ndim", 0) != 0:
        raise TypeError  # an array, a Series: more than a number, also where it has one element
    exact: Any = value
    if issubclass(kind, int):
        exact = int.__int__(value)
    elif hasattr(kind, "__index__"):
        with suppress(TypeError):  # an array of one float has it, and fails
            exact = int.__int__(index(value))
    try:
        number = float.__float__(float(exact))
    except OverflowError:
        number = float("inf")
    known = issubclass(kind, (Decimal, Fraction)) or exact is not value or kind is int
    if not known and not abs(exact - number) <= abs(number) * 2.0**-52 and isfinite(number):
        raise TypeError  # a complex number, say, of which float() drops a half
    if isfinite(number) and (abs(number) >= _EXACT_UP_TO or number == 0) and not exact == number:
        raise InvalidSnapshot(f"{name} must be a number that a float can hold, got {shown(value)}")
    return number


def _as_datetime(value: Any, plain: type[datetime]) -> datetime | None:
    """An exact datetime with the same fields; None: it is no datetime. May raise anything.

    The fields are read from the base class: pandas, pendulum and freezegun keep them there, and what they
    override may warn, fail, or answer in their own class. Nanoseconds are cut off thereby.
    """
    if type(value) is plain:
        return value
    if not issubclass(type(value), plain):
        return None
    fields = {name: getattr(plain, name).__get__(value) for name in _TIME_FIELDS}
    if fields["tzinfo"] is not None and value.year != fields["year"]:
        raise OverflowError  # pandas keeps a year beyond 9999 elsewhere
    return plain(**fields)


def _is_numpy_bool(kind: type) -> bool:
    """numpy's bool, without importing numpy."""
    return kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")
