"""A producer as the scripts see it: it claims, admits, repeats, and does what the answers say."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from msgspec.structs import force_setattr

from risk_producer.contract.keys import Keys
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import encode
from risk_producer.errors import StreamUnavailable
from risk_producer.transport.requests import Admit, Claim, OutgoingEntry, TraderStream
from tests.support.factory import snapshot
from tests.support.redis import ask_one


class Sender:
    """Sends the snapshots of one trader, in order. daily_pnl numbers them; the last one may be paused."""

    def __init__(
        self, client: Any, trader_id: str, *, keys: Keys | None = None, numbered_from: int = 1
    ) -> None:
        self._stream = TraderStream(client)
        self._keys = keys or Keys(0)
        self.trader_id = trader_id
        self.epoch: int | None = None
        self.fenced = False
        self.accepted: list[tuple[int, int, float]] = []
        """(epoch, seq, number) of what Redis has taken."""
        self._number = numbered_from
        self._seq = 0
        self._unsent: list[RiskSnapshot] = []
        self._in_flight: list[tuple[RiskSnapshot, OutgoingEntry]] = []
        self._last: Admit | None = None

    def add(self, count: int = 1, *, paused: bool = False, recorded_off_s: float = 0.0) -> None:
        """Save snapshots; nothing is sent yet. recorded_off_s: how much the trader's clock is off."""
        for _ in range(count):
            made = snapshot(self.trader_id, self._number, trading_paused=paused)
            recorded_at = made.recorded_at + timedelta(seconds=recorded_off_s)
            force_setattr(made, "recorded_at", recorded_at)  # its own check would be by the same clock
            self._unsent.append(made)
            self._number += 1

    def claim(self) -> str | None:
        """Get an epoch. Returns why there is none."""
        try:
            [answer] = ask_one(self._stream, Claim(self._keys, [(0, self.trader_id)]))
        except StreamUnavailable as error:
            return str(error)
        if not isinstance(answer, int):
            return answer.reason
        self.epoch, self._seq = answer, 0
        return None

    def send(self) -> str | None:
        """Send what there is. Returns why not; None: Redis has it all."""
        for _ in range(3):
            if self.epoch is None:
                reason = self.claim()
                if reason is not None:
                    return reason
            assert self.epoch is not None
            for each in self._unsent:
                self._seq += 1
                payload = encode(each, self.epoch, self._seq)
                self._in_flight.append(
                    (each, OutgoingEntry(self.trader_id, self.epoch, self._seq, 0, payload))
                )
            self._unsent = []
            if not self._in_flight:
                return None
            call = self._last = Admit(self._keys, 1_000_000, [entry for _, entry in self._in_flight])
            try:
                answer = ask_one(self._stream, call)
            except StreamUnavailable as error:
                return str(error)
            skipped = answer.skipped.get((self.trader_id, self.epoch))
            if skipped is None:
                self.fenced = bool(answer.fenced)
                self._confirm(answer.count)
                return None
            if skipped.kind == "unreadable":
                return skipped.reason
            self._confirm(sum(entry.seq <= skipped.admitted for _, entry in self._in_flight))
            self._unsent = [each for each, _ in self._in_flight]
            self._in_flight = []
            self.epoch = None
        raise AssertionError(f"{self.trader_id} claims one epoch after the other")

    def repeat(self) -> bool:
        """Ask the last call again, as after a lost answer. Returns whether it had been answered in full."""
        if self._last is None or self._in_flight or self._last.entries[0].epoch != self.epoch:
            return False
        with suppress(StreamUnavailable):
            ask_one(self._stream, self._last)
        return True

    def _confirm(self, count: int) -> None:
        self.accepted += [(entry.epoch, entry.seq, each.daily_pnl) for each, entry in self._in_flight[:count]]
        del self._in_flight[:count]
