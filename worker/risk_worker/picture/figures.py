"""Numbers, times and lengths of time as a reader sees them."""

from __future__ import annotations

from datetime import datetime, tzinfo
from math import floor, log10
from typing import Final

MINUS: Final = "\u2212"
NARROW: Final = "\u202f"
"""A space that no line is broken at, between a number and its unit."""
NONE: Final = "–"
_HUGE: Final = 1e15
_UNITS: Final = ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e7, 1e6, "M"))
"""(from which value on, unit, its name). Millions begin late, as 1,250,000 is still short."""


def amount(value: float, places: int = 2, *, signed: bool = False) -> str:
    """1,234.56, with a true minus; beyond 15 digits in powers of ten. signed: with a plus too."""
    form = ".6g" if abs(value) >= _HUGE else f",.{places}f"
    text = format(value, f"{'+' if signed else ''}{form}")
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def short(value: float) -> str:
    """For a narrow column: 12.34, 1,235, 12.3 k, 12.35 M."""
    if abs(value) < 1e4 or abs(value) >= _HUGE:
        return amount(value, 2 if abs(value) < 100 else 0)
    size, name = _unit(abs(value))
    return (
        amount(value / size, 2) + name
        if name
        else f"{amount(value / 1e3, 1 if abs(value) < 1e5 else 0)}{NARROW}k"
    )


def percent(value: float, places: int = 2) -> str:
    """2.04 %."""
    return f"{amount(value, places)}{NARROW}%"


def on_axis(values: tuple[float, ...], step: float) -> list[str]:
    """The marks of an axis: no more decimals than they differ in, all in the same unit."""
    most = max(map(abs, values), default=0.0)
    if most >= 1e16:
        return [format(value, ".3g").replace("-", MINUS) for value in values]
    size, name = _unit(most)
    # A step of 2.5 has a decimal more than its size says.
    places = max(0, -floor(log10(step / size) + 1e-9))
    if round(step / size * 10**places, 6) % 1:
        places += 1
    return [amount(value / size, min(places, 9)) + name for value in values]


def length(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min, 2 d 4 h; a minus before what is below 0."""
    if seconds < 0:
        return MINUS + length(-seconds)
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s" if seconds < 10 and seconds % 1 else f"{int(seconds)}{NARROW}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}{NARROW}h {minutes:02}{NARROW}min"
    days, hours = divmod(hours, 24)
    return f"{days:,}{NARROW}d {hours}{NARROW}h"


def _unit(value: float) -> tuple[float, str]:
    """What a number of that size is counted in, and its name with the space before it."""
    return next(((size, NARROW + name) for least, size, name in _UNITS if value >= least), (1.0, ""))


def moment(value: datetime, zone: tzinfo) -> str:
    """2026-01-31 14:05:09, to the second."""
    return f"{local(value, zone):%Y-%m-%d %H:%M:%S}"


def clock(value: datetime, zone: tzinfo) -> str:
    """14:05."""
    return f"{local(value, zone):%H:%M}"


def local(value: datetime, zone: tzinfo) -> datetime:
    """In that zone; as it is at the ends of Python's calendar."""
    try:
        return value.astimezone(zone)
    except OverflowError:
        return value


def cut(text: str, most: int) -> str:
    """The beginning of a text, of so many characters at the most."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
