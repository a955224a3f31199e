"""`riskstream tail`: snapshots as they arrive, a line each; and how many were missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Final, TextIO

import msgspec

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.contract.wire import FIELD, WireSnapshot, decode
from risk_producer.errors import InvalidSnapshot
from risk_producer.settings import Settings
from risk_worker.stream.follow import Arrival, Follower, Outage
from risk_worker.stream.outages import named

WAIT_S: Final = 0.5


class Missed:
    """Counts the snapshots that came and went without being seen, by the gaps in their seq numbers."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}  # trader -> (epoch, seq) that was seen last

    def before(self, found: WireSnapshot) -> int | None:
        """How many of the trader were missed just before this one; None: this one was seen already."""
        seen = self._last.get(found.trader_id)
        if seen is not None and seen[0] > found.epoch:
            return 0  # a former incarnation sends what it still has
        last = seen[1] if seen is not None and seen[0] == found.epoch else None
        if last is not None and found.seq <= last:
            return None
        self._last[found.trader_id] = (found.epoch, found.seq)
        if last is None:  # from the first one on, where another incarnation was seen before
            last = 0 if seen is not None else found.seq - found.merged - 1
        return max(0, found.seq - found.merged - 1 - last)


def tail(settings: Settings, trader: str | None, *, json: bool, out: TextIO, err: TextIO) -> None:
    """Write what arrives to out until a signal ends the process. Raises OSError where that fails."""
    url = settings.require_redis_url()
    missed, keyspace = Missed(), settings.keyspace
    with Follower(url, keyspace, settings.partitions, trader) as follower:
        while True:
            answer = follower.take(WAIT_S)
            if isinstance(answer, Outage):
                _write(err, [f"riskstream: {_outage(answer, keyspace)}"])
                continue
            shown: list[str] = []
            missed_lines: list[str] = []
            for arrival, found in _read(answer, trader):
                if isinstance(found, str):
                    missed_lines.append(
                        f"riskstream: entry {arrival.entry_id} of {named([arrival.partition], keyspace)}: "
                        f"{found}"
                    )
                    continue
                gap = missed.before(found)
                if gap:
                    noun = "snapshot" if gap == 1 else "snapshots"
                    missed_lines.append(
                        f"riskstream: {gap:,} {noun} of {found.trader_id!r} came and went too quickly to be "
                        "shown"
                    )
                if gap is not None:
                    shown.append(as_json(arrival, found, keyspace) if json else as_text(found))
            _write(out, shown)
            _write(err, missed_lines)


def as_json(arrival: Arrival, found: WireSnapshot, keyspace: Keyspace = NO_NAMESPACE) -> str:
    """One object: where it stands, and all that it says."""
    keys = keyspace.keys(arrival.partition)
    place: dict[str, object] = {"namespace": keys.namespace} if keyspace.is_several else {}
    place |= {"partition": keys.partition, "entry_id": arrival.entry_id}
    return msgspec.json.encode(place | msgspec.to_builtins(found)).decode()


def as_text(found: WireSnapshot) -> str:
    """One line for a person."""
    paused = ""
    if found.trading_paused:
        until = (
            f" until {found.paused_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if found.paused_until else ""
        )
        paused = f"  PAUSED{until}"
    reason = f"  {found.reason}" if found.reason else ""
    at = found.recorded_at.astimezone(UTC)
    line = (
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03}  {found.trader_id}  "
        f"equity {found.current_equity:,.2f}  pnl {found.daily_pnl:+,.2f}  "
        f"drawdown {found.drawdown_pct:.2f} %{paused}{reason}"
    )
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


def _read(arrivals: Iterable[Arrival], trader: str | None) -> Iterator[tuple[Arrival, WireSnapshot | str]]:
    """The snapshots of the trader, or of all; and why an entry is none."""
    for arrival in arrivals:
        try:
            if arrival.fields.keys() != {FIELD}:
                raise InvalidSnapshot("it has other fields than a producer's")
            found = decode(arrival.fields[FIELD])
        except InvalidSnapshot as error:
            if trader is None:
                yield arrival, f"no snapshot, so it becomes a dead letter: {error}"
            continue
        if trader in (None, found.trader_id):
            yield arrival, found


def _outage(found: Outage, keyspace: Keyspace) -> str:
    noun = named(found.partitions, keyspace)
    if not found.error:
        return f"Redis answers for {noun} again, and what arrives is shown"
    return f"Redis does not answer for {noun}, and is asked again: {found.error}"


def _write(stream: TextIO, texts: Iterable[str]) -> None:
    text = "".join(f"{each}\n" for each in texts)
    if text:
        stream.write(text)
        stream.flush()
