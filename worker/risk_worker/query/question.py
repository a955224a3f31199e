"""What a question is: a row class, a file of SQL with its name, and fields that are its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_type_hints

import msgspec

from risk_producer.contract.snapshot import RECORDED_AT_END, RECORDED_AT_MIN, TRADER_ID_MAX, check_text, shown
from risk_producer.errors import InvalidSnapshot, RiskError
from risk_worker import times

KNOWN_LATER: Final = ("final", "waiting")
"""Values that the SQL gets when it is asked, from the Certainty of the answer; NULL before."""
Row = TypeVar("Row", bound=msgspec.Struct, covariant=True)


class BadQuestion(RiskError, ValueError):
    """A parameter of a question cannot be used; the message names it and says what it expects."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the texts of times refer to."""

    now: datetime
    zone: tzinfo
    ends: time
    """When a day ends, by the clocks of the zone."""

    def start_of(self, day: date) -> datetime:
        """The first moment of a day."""
        return times.start_of(day, self.zone, self.ends)

    def date_of(self, moment: datetime) -> date:
        """The day that a moment belongs to."""
        return times.date_of(moment, self.zone, self.ends)


@dataclass(frozen=True, slots=True)
class Parameter:
    """How the value of a field is read, and what the command line says of it."""

    read: Callable[[Any, Setting], Any]
    """From what was given to what the SQL gets. Raises ValueError."""
    help: str
    metavar: str = "TEXT"
    positional: bool = False
    """Whether it has no name on the command line."""
    bare: str | None = None
    """What the option means where it is given without a value; None: it needs one."""


@dataclass(frozen=True)
class Question(Generic[Row]):
    """Base of the questions (questions.py has all of them). Checked where it is made.

    A subclass names its row class as Row, and its parameters as fields with a Parameter; its file of SQL is
    called as the class is, in lower case. Texts of times refer to now, to tz and to day_ends. Raises
    BadQuestion.
    """

    tz: Annotated[
        str,
        Parameter(
            lambda value, _: value,
            "Time zone of what is shown, and of times that name none. Default: RISK_TZ.",
            "ZONE",
        ),
    ] = field(default="UTC", kw_only=True)
    day_ends: Annotated[
        str,
        Parameter(
            lambda value, _: value,
            "When a day ends, by the clocks there; it has the date of its end. Default: RISK_DAY_ENDS.",
            "HH:MM",
        ),
    ] = field(default="24:00", kw_only=True)
    values: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """What the SQL gets."""

    def __post_init__(self) -> None:
        try:
            zone = times.zone_of(self.tz)
        except (ValueError, AttributeError):
            raise BadQuestion(
                f"tz: {shown(self.tz)} is no time zone like UTC, Europe/Berlin or America/New_York"
            ) from None
        try:
            setting = Setting(datetime.now(UTC), zone, times.ends_of(_text(self.day_ends, times.ENDS)))
        except ValueError as error:
            raise BadQuestion(f"day_ends: {error}") from None
        values: dict[str, Any] = dict.fromkeys(KNOWN_LATER)
        for name, (parameter, default) in parameters(type(self)).items():
            given = getattr(self, name)
            if given is None and default is not None:
                raise BadQuestion(f"{name} is missing")
            try:
                values[name] = None if given is None else parameter.read(given, setting)
            except ValueError as error:
                raise BadQuestion(f"{name}: {error}") from None
        since, until = values.get("since"), values.get("until")
        if since is not None and until is not None and since >= until:
            raise BadQuestion(f"until: {until.isoformat()} is not later than since, {since.isoformat()}")
        object.__setattr__(self, "values", {**values, **self.derived(values, setting)})

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        """More values for the SQL. Raises BadQuestion where those that were given contradict each other."""
        return {}


def parameters(question: type[Question[Any]]) -> dict[str, tuple[Parameter, Any]]:
    """Field -> (its parameter, its default, or MISSING), as they are declared; tz and day_ends are last."""
    hints = get_type_hints(question, include_extras=True)
    found = {}
    for each in sorted(fields(question), key=lambda each: each.kw_only is True):
        for extra in get_args(hints[each.name])[1:]:
            if isinstance(extra, Parameter):
                found[each.name] = (extra, each.default)
    return found


def name_of(question: type[Question[Any]]) -> str:
    """Of its command, and of its file of SQL."""
    return question.__name__.lower()


def row_of(question: type[Question[Row]]) -> type[Row]:
    """The class of its rows."""
    [base] = question.__orig_bases__  # type: ignore[attr-defined]
    [row] = get_args(base)
    return row  # type: ignore[no-any-return]


# The kinds of parameters.


def trader() -> Parameter:
    """A trader_id, by the rule of the contract."""
    return Parameter(_trader, "One trader alone.", positional=True)


def moment(help: str, *, positional: bool = False) -> Parameter:
    """A datetime with a time zone, or a text for times.moment_of()."""
    return Parameter(_moment, help, "TIME", positional)


def day(help: str, *, bare: str | None = None) -> Parameter:
    """A date, or a text for times.day_of()."""
    return Parameter(_day, help, "DAY", bare=bare)


def length(help: str, *, most: timedelta) -> Parameter:
    """A timedelta of a second or more, or a text for times.length_of()."""

    def read(given: object, _: Setting) -> timedelta:
        found = given if isinstance(given, timedelta) else times.length_of(_text(given, times.LENGTHS))
        if not _SECOND <= found <= most:
            raise ValueError(f"{shown(given)} is not between 1 s and {most.days} days")
        return found

    return Parameter(read, help, "LENGTH")


def count(help: str, *, most: int) -> Parameter:
    """A whole number from 1 on."""

    def read(given: object, _: Setting) -> int:
        digits = isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 18
        found = int(given) if digits else given  # type: ignore[call-overload]
        if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= most:
            raise ValueError(f"{shown(given)} is not a whole number from 1 to {most:,}")
        return found

    return Parameter(read, help, "N")


_SECOND: Final = timedelta(seconds=1)


def _text(given: object, expected: str) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{shown(given)} is not {expected}")
    return given


def _trader(given: object, _: Setting) -> str:
    text = _text(given, "a trader_id, which is a text")
    try:
        check_text("a trader_id", text, TRADER_ID_MAX, least=1)
    except InvalidSnapshot as error:
        raise ValueError(str(error)) from None
    return text


def _moment(given: object, setting: Setting) -> datetime:
    if isinstance(given, datetime):
        if given.utcoffset() is None:
            raise ValueError(f"{shown(given)} has no time zone")
        try:
            return given.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{shown(given)} is out of range") from None
    text = _text(given, times.MOMENTS)
    return times.moment_of(text, now=setting.now, zone=setting.zone, ends=setting.ends)


def _day(given: object, setting: Setting) -> date:
    if isinstance(given, date) and not isinstance(given, datetime):
        found = given
    else:
        text = _text(given, times.DAYS)
        found = times.day_of(text, now=setting.now, zone=setting.zone, ends=setting.ends)
    if not RECORDED_AT_MIN.date() <= found < RECORDED_AT_END.date():
        raise ValueError(f"{found.isoformat()} is not between 2000-01-01 and 2199-12-31")
    return found
