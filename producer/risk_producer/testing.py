"""For the tests of what uses a producer: producers that record what they are given, and need no Redis.

from risk_producer.testing import RecordingProducer

They take what RiskProducer and AsyncRiskProducer take and refuse what those refuse, and play the two faults
that a trader has to live with. risk_producer.pytest_plugin has them as fixtures.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from risk_producer.aio import AsyncRiskProducer
from risk_producer.base import ProducerBase, check
from risk_producer.contract.snapshot import RiskSnapshot, with_last_reset
from risk_producer.errors import ProducerClosed, StateUnknown, StreamFull, StreamUnavailable
from risk_producer.load.sources import LoadedState
from risk_producer.threaded import RiskProducer

__all__ = ["AsyncRecordingProducer", "RecordingProducer"]


class _Recording(ProducerBase):
    """What both have in common. Metrics are in a registry of its own."""

    def __init__(self, states: Iterable[RiskSnapshot] = ()) -> None:
        """states: what load() finds, as if traders had reported it before."""
        super().__init__(persistent=False, registry=CollectorRegistry())
        self.snapshots: list[RiskSnapshot] = []
        """What was accepted, in this order, with the last_reset_time that the producer fills in."""
        self.stream_full = False
        """True: the stream is full and so is the buffer. save() answers False, push() raises StreamFull."""
        self.redis_away = False
        """True: Redis does not answer. save() goes on, push() raises StreamUnavailable, load() raises
        StateUnknown."""
        for snapshot in states:
            self._engine.session.accept(snapshot)

    def of(self, trader_id: str) -> list[RiskSnapshot]:
        """What was accepted of one trader, in this order."""
        return [each for each in self.snapshots if each.trader_id == trader_id]

    def _save(self, snapshot: RiskSnapshot) -> bool:
        check(snapshot)
        session = self._engine.session
        item = None if self.stream_full else session.accept(snapshot)
        if item is None:
            session.reject(snapshot)
            return False
        self.snapshots.append(with_last_reset(item.snapshot, item.reset or item.snapshot.recorded_at))
        return True

    def _push(self, snapshot: RiskSnapshot) -> None:
        if not self._save(snapshot):
            if self._engine.session.closed:
                raise ProducerClosed("push() after close(): the snapshot was not accepted")
            raise StreamFull("the stream is full, as the test has it; the snapshot was not accepted")
        if self.redis_away:
            raise StreamUnavailable(
                "Redis does not answer, as the test has it; the snapshot stays in memory and is sent later"
            )

    def _require_redis(self, trader_id: str) -> None:
        if self.redis_away:
            raise StateUnknown(
                f"whether {trader_id!r} has a state cannot be known now (redis: it does not answer, as the "
                "test has it)"
            )


class RecordingProducer(_Recording, RiskProducer):
    """A RiskProducer that records. Thread-safe, as that one is."""

    def save(self, snapshot: RiskSnapshot) -> bool:
        """Record a snapshot. False: stream_full, or after close()."""
        return self._save(snapshot)

    def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """Record a snapshot, or raise what the fault that is played asks for; without waiting."""
        self._push(snapshot)

    def load(self, trader_id: str) -> LoadedState | None:
        """The newest that was given of a trader."""
        self._require_redis(trader_id)
        return super().load(trader_id)


class AsyncRecordingProducer(_Recording, AsyncRiskProducer):
    """An AsyncRiskProducer that records."""

    async def save(self, snapshot: RiskSnapshot) -> bool:
        """As RecordingProducer.save()."""
        return self._save(snapshot)

    async def push(self, snapshot: RiskSnapshot, timeout: float | None = None) -> None:
        """As RecordingProducer.push()."""
        self._push(snapshot)

    async def load(self, trader_id: str) -> LoadedState | None:
        """As RecordingProducer.load()."""
        self._require_redis(trader_id)
        return await super().load(trader_id)
