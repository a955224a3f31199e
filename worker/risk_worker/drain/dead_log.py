"""The line about what could not be stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from risk_worker.drain.batch import Batch, DeadLetter, Outcome

log = logging.getLogger("riskstream.drain")

_READ_BYTES: Final = 65_536
_REASON_MAX: Final = 300


class _Traced(msgspec.Struct):
    trace_id: str = ""


def log_dead_letters(batches: Sequence[Batch], outcomes: Sequence[Outcome]) -> None:
    """One line for what was committed together, with the first reason; none where all was stored."""
    dead = [(batch, each) for batch, outcome in zip(batches, outcomes, strict=True) for each in outcome.dead]
    if not dead:
        return
    batch, first = dead[0]
    trace_id = _trace_id(first)
    traced = f", trace_id {trace_id!r}" if trace_id else ""
    of = f" of trader {first.identity.trader_id!r}{traced}" if first.identity is not None else traced
    log.error(
        "%d of %d entries could not be stored and are dead letters. The first is %s in %s%s: %s. "
        "`riskstream dead list` shows them",
        len(dead),
        sum(map(len, batches)),
        first.entry_id,
        batch.stream,
        of,
        first.reason[:_REASON_MAX],
        extra={"trace_id": trace_id} if trace_id else {},
    )


def _trace_id(dead: DeadLetter) -> str:
    """Empty: it has none, or it cannot be read."""
    try:
        return msgspec.json.decode(dead.payload[:_READ_BYTES], type=_Traced).trace_id[:100]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
