"""Numbers that are kept in Redis, read with care: any client may have written something else there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def numbers(answer: Any, key: str, unreadable: list[str]) -> dict[str, float]:
    """What a hash of numbers holds, by field; what is no number, or no hash, is named in unreadable.

    answer: what Redis answered to HGETALL, which may be the error for a key of another type.
    """
    if not isinstance(answer, Mapping):
        unreadable.append(f"{key} ({answer})")
        return {}
    found: dict[str, float] = {}
    for field, value in answer.items():
        count = number(value)
        if count is None:
            unreadable.append(f"field {text(field)!r} of {key} ({text(value)[:50]!r})")
        else:
            found[text(field)] = count
    return found


def number(raw: Any) -> float | None:
    """None: it is no finite number."""
    try:
        value = float(raw)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def text(raw: Any) -> str:
    """For a person, whatever bytes there are."""
    return raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else str(raw)
