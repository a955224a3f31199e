"""The message to acknowledge.lua about a committed batch, how it is made, and the answer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from risk_producer.contract.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS, bucket_of
from risk_producer.contract.wire import Identity
from risk_worker.drain.batch import Batch, DeadLetter, Incarnation, Outcome, Row, incarnations

_LONGEST_MS: Final = round(LATENCY_BOUNDS_MS[-1])
"""A record of the past counts as one that waited for so long, an hour: the sum would be of such alone."""


class TakenOff(msgspec.Struct, gc=False, omit_defaults=True):
    """One entry to be taken off the stream; only where the batch is listed."""

    id: str
    seq: int = 0
    incarnation: int = 0
    """Its place in the message's incarnations, from 1 on; 0: the entry names none."""
    bound: str = ""
    """Upper bound of its bucket in the latency histogram; empty for a dead letter."""
    waited_ms: int = 0
    """From recorded_at to COMMIT; 0 for a dead letter."""


class OfTraders(msgspec.Struct, gc=False, omit_defaults=True):
    """What was stored of some traders, or became their dead letters: a column for each property.

    There may be as many traders as entries, and an object for each would cost Redis more than all else.
    """

    traders: list[str]
    """Empty: dead letters that name no trader."""
    counts: list[int]
    latencies_ms: list[str] = []
    """From recorded_at to COMMIT of the newest; none for dead letters."""
    entries: list[list[TakenOff]] = []


class Admitted(msgspec.Struct, gc=False):
    """How far incarnations of producers must have come for the batch to be their own."""

    fields: list[str]
    """Of the hash of what was admitted: "epoch:trader"."""
    highest: list[int]
    """The highest seq in the batch."""


class Acknowledgement(msgspec.Struct):
    """A committed batch. Where it is not listed there are counts of entries, and no entries."""

    first: str
    last: str
    listed: bool
    stored: OfTraders
    dead: OfTraders
    duplicates: int
    buckets: dict[str, int]
    """Upper bound in ms -> how many waited so long, but longer than the bound before; empty where listed."""
    waited_ms: int
    """The sum of how long all of them waited; 0 where listed."""
    incarnations: Admitted
    unidentified: int
    """Entries that name no incarnation."""
    database: str = ""
    """The identity of the database in which the batch is committed; empty: it is not compared."""


class Acknowledged(msgspec.Struct):
    """The answer of acknowledge.lua."""

    taken_off: int = 0
    """Entries that this call took off the stream."""
    ids_needed: bool = False
    """Nothing was done: the stream is not as the batch was read, so each entry has to be listed."""
    database: str = ""
    """Nothing was done: the stream is this other database's."""


def whole(batch: Batch, outcome: Outcome, now: datetime, database: str = "") -> Acknowledgement:
    """The message for a batch that is cut off the stream as one piece.

    now: when the COMMIT came.
    database: the identity of the one in which it is committed; empty: it is not compared.
    """
    rows, of_stored = _stored(batch, outcome)
    times = sorted(row.snapshot.recorded_at for row in rows)
    dead: dict[str, int] = defaultdict(int)
    for dead_letter in outcome.dead:
        dead[_trader_of(dead_letter)] += 1
    highest = _highest(batch, outcome)
    by_trader = _by_trader(of_stored)
    return Acknowledgement(
        batch.first,
        batch.last,
        listed=False,
        stored=OfTraders(
            list(by_trader),
            [rows for rows, _ in by_trader.values()],
            [_latency_ms(recorded_at, now) for _, recorded_at in by_trader.values()],
        ),
        dead=OfTraders(list(dead), list(dead.values())),
        duplicates=outcome.duplicates,
        buckets=_histogram(times, now),
        waited_ms=_sum_ms(times, now),
        incarnations=Admitted([f"{epoch}:{trader}" for trader, epoch in highest], list(highest.values())),
        unidentified=sum(dead_letter.identity is None for dead_letter in outcome.dead),
        database=database,
    )


def listed(batch: Batch, outcome: Outcome, now: datetime, database: str = "") -> Acknowledgement:
    """The same with each entry, for a batch of which the stream may have only a part, or foreign entries."""
    message = whole(batch, outcome, now, database)
    numbers = {each: number for number, each in enumerate(_highest(batch, outcome), 1)}

    def entry(entry_id: str, identity: Identity | None, bound: str = "", waited_ms: float = 0) -> TakenOff:
        taken = TakenOff(entry_id, bound=bound, waited_ms=round(waited_ms))
        if identity is not None:
            taken.seq, taken.incarnation = identity.seq, numbers[identity.trader_id, identity.epoch]
        return taken

    stored: dict[str, list[TakenOff]] = defaultdict(list)
    for row in _stored(batch, outcome)[0]:
        waited_ms = _waited_ms(row.snapshot.recorded_at, now)
        stored[row.snapshot.trader_id].append(
            entry(row.entry_id, row.identity, bucket_of(waited_ms), min(waited_ms, _LONGEST_MS))
        )
    dead: dict[str, list[TakenOff]] = defaultdict(list)
    for dead_letter in outcome.dead:
        dead[_trader_of(dead_letter)].append(entry(dead_letter.entry_id, dead_letter.identity))
    message.listed = True
    message.buckets, message.waited_ms = {}, 0
    message.stored.entries = [stored[trader] for trader in message.stored.traders]
    message.dead.entries = [dead[trader] for trader in message.dead.traders]
    return message


def newest_times(batch: Batch, outcome: Outcome) -> dict[str, datetime]:
    """trader_id -> recorded_at of its newest snapshot that was stored."""
    found = _by_trader(_stored(batch, outcome)[1])
    return {trader: recorded_at for trader, (_, recorded_at) in found.items()}


def _stored(batch: Batch, outcome: Outcome) -> tuple[Sequence[Row], Sequence[Incarnation]]:
    """The rows of which the transaction made no dead letters."""
    if not outcome.dead or outcome.dead is batch.dead:
        return batch.rows, batch.incarnations
    rows = batch.without({dead_letter.entry_id for dead_letter in outcome.dead})
    return rows, incarnations(rows)


def _by_trader(found: Iterable[Incarnation]) -> dict[str, tuple[int, datetime]]:
    """trader_id -> (rows, recorded_at of the newest)."""
    traders: dict[str, tuple[int, datetime]] = {}
    epochs: dict[str, int] = {}
    for each in found:
        rows, recorded_at = traders.get(each.trader_id, (0, each.newest.recorded_at))
        if each.epoch >= epochs.get(each.trader_id, 0):
            epochs[each.trader_id], recorded_at = each.epoch, each.newest.recorded_at
        traders[each.trader_id] = (rows + each.rows, recorded_at)
    return traders


def _highest(batch: Batch, outcome: Outcome) -> dict[tuple[str, int], int]:
    """The highest seq in the batch of each (trader_id, epoch), dead letters included."""
    highest = {(each.trader_id, each.epoch): each.newest.seq for each in batch.incarnations}
    for dead_letter in outcome.dead:
        if (identity := dead_letter.identity) is not None:
            incarnation = (identity.trader_id, identity.epoch)
            highest[incarnation] = max(identity.seq, highest.get(incarnation, 0))
    return highest


def _trader_of(dead_letter: DeadLetter) -> str:
    return dead_letter.identity.trader_id if dead_letter.identity is not None else ""


def _latency_ms(recorded_at: datetime, now: datetime) -> str:
    return f"{_waited_ms(recorded_at, now):.3f}"


def _waited_ms(recorded_at: datetime, now: datetime) -> float:
    return max(0.0, (now - recorded_at).total_seconds() * 1000)


def _histogram(times: list[datetime], now: datetime) -> dict[str, int]:
    """Upper bound -> how many waited for so long and longer than the bound before, where there are any.

    times: sorted.
    """
    counts: dict[str, int] = {}
    longer = len(times)
    for bucket, bound_ms in zip(LATENCY_BUCKETS, LATENCY_BOUNDS_MS, strict=False):  # not "+Inf"
        still_longer = bisect_left(times, now - timedelta(milliseconds=bound_ms), hi=longer)
        if still_longer < longer:
            counts[bucket] = longer - still_longer
        longer = still_longer
        if not longer:
            return counts
    return counts | {LATENCY_BUCKETS[-1]: longer}


def _sum_ms(times: list[datetime], now: datetime) -> int:
    """How long all of them waited together, each for _LONGEST_MS at the most. times: sorted.

    What is ahead of the clock did not wait.
    """
    first = bisect_left(times, now - timedelta(milliseconds=_LONGEST_MS))
    waited = sum((now - each for each in times[first : bisect_right(times, now)]), timedelta())
    return round(waited / timedelta(milliseconds=1)) + first * _LONGEST_MS
