"""The scripts against a model, in random order, with fields that are corrupted: nothing is lost."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.wire import WireSnapshot
from risk_worker.drain.batch import Outcome, decode_entries
from risk_worker.recovery import floors as module
from risk_worker.recovery.floors import Floors
from risk_worker.stream.source import StreamSource, connect
from tests.support.reads import read
from tests.support.senders import Sender

KEYS = Keys(0)
TRADERS = ("a", "b:c", "größer")
BAD = (b"", b"abc", b"-1", b"1.5", b"%d" % 2**53, b"1e300", b"nan", b"\xff\xfe", b"x" * 100)
SPOILT = ("epochs", "admitted", "floors", "latest", "attempts", "failures", "latency_ms")

Key = tuple[str, int, int]


class Restored(Floors):
    """Floors on the model's states instead of Postgres'."""

    def __init__(self, client: Any, states: dict[str, WireSnapshot]) -> None:
        super().__init__(client, "", 0)
        self._states = states

    def _announce_partitioning(self) -> None:
        self._partitioning = Partitioning(1, 1)

    def _page(self, after: str) -> list[dict[str, Any]]:
        names = sorted(name for name in self._states if name > after)[: module.PAGE]
        return [
            {
                field: getattr(self._states[name], field)
                for field in WireSnapshot.__struct_fields__
                if field not in ("v", "merged")
            }
            for name in names
        ]


class Scripts(RuleBasedStateMachine):
    """Producers, a worker and the database in memory; the scripts are the real ones on a real server."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.source = StreamSource(self.client, [0], batch_size=5, block_s=0.001)
        self.senders: list[Sender] = []
        self.number = 0
        self.history: dict[Key, float] = {}
        self.states: dict[str, WireSnapshot] = {}
        self.spoilt: dict[tuple[str, str], bytes | None] = {}
        self.dead = 0
        self.lost = False
        """Redis has lost its data once: a repeat goes through the stream again then, a no-op in history."""

    @rule(trader=st.sampled_from(TRADERS))
    def start(self, trader: str) -> None:
        """A producer is started."""
        self.number += 1_000
        self.senders.append(Sender(self.client, trader, numbered_from=self.number))

    @precondition(lambda self: self.senders)
    @rule(data=st.data(), count=st.integers(1, 4))
    def send(self, data: st.DataObject, count: int) -> None:
        """One of them saves and sends; what it is told names the field that is spoilt."""
        sender = data.draw(st.sampled_from(self.senders))
        sender.add(count)
        self._send(sender)

    @precondition(lambda self: self.senders)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The answer of its last call was lost."""
        sender = data.draw(st.sampled_from(self.senders))
        before = self.client.xlen(KEYS.snapshots)
        if sender.repeat() and not self.lost:
            assert self.client.xlen(KEYS.snapshots) == before

    @rule(count=st.integers(1, 3), acknowledged=st.booleans())
    def store(self, count: int, acknowledged: bool) -> None:
        """A worker stores some batches, and may die before it acknowledges."""
        self.source.rewind()
        for _ in range(count):
            self._store(acknowledged=acknowledged)

    @rule()
    def forget(self) -> None:
        self.source.forget()

    @precondition(lambda self: not self.spoilt)
    @rule()
    def compare(self) -> None:
        Restored(self.client, self.states).compare()

    @precondition(lambda self: not self.spoilt)
    @rule()
    def lose(self) -> None:
        """Everything is stored, and then Redis loses its data."""
        self._store_all()
        self.client.flushdb()
        self.source.rewind()
        self.lost = True

    @precondition(lambda self: self.senders)
    @rule(data=st.data(), name=st.sampled_from(SPOILT), value=st.sampled_from(BAD))
    def spoil(self, data: st.DataObject, name: str, value: bytes) -> None:
        sender = data.draw(st.sampled_from(self.senders))
        key = getattr(KEYS, name)
        field = f"{sender.epoch}:{sender.trader_id}" if name == "admitted" else sender.trader_id
        if sender.epoch is not None or name != "admitted":
            self.spoilt.setdefault((key, field), self.client.hget(key, field))
            self.client.hset(key, field, value)

    @precondition(lambda self: self.spoilt)
    @rule()
    def mend(self) -> None:
        """What the command does is tested elsewhere; here all is as it was before."""
        for (key, field), value in self.spoilt.items():
            if key in (KEYS.attempts, KEYS.failures, KEYS.latency_ms):
                continue
            if key == KEYS.latest and self._is_snapshot(self.client.hget(key, field)):
                continue
            if value is None:
                self.client.hdel(key, field)
            else:
                self.client.hset(key, field, value)
        self.spoilt.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        """What was accepted is in history or in the stream, once, and nothing else is."""
        waiting = [self._key(each) for each in self._in_stream()]
        accepted = {
            (sender.trader_id, epoch, seq): number
            for sender in self.senders
            for epoch, seq, number in sender.accepted
        }
        assert len(waiting) == len(set(waiting)), "nothing is in the stream twice"
        assert accepted.keys() == self.history.keys() | set(waiting)
        assert all(accepted[key] == number for key, number in self.history.items())
        assert self.dead == 0

    def teardown(self) -> None:
        self.mend()
        for sender in self.senders:
            assert sender.send() is None
        self._store_all()
        self.nothing_is_lost()
        assert self.client.xlen(KEYS.snapshots) == 0
        for trader in TRADERS:
            keys = [key for key in self.history if key[0] == trader]
            if keys:
                state = self.states[trader]
                assert (trader, state.epoch, state.seq) == max(keys)
        counted = {name: int(value) for name, value in self.client.hgetall(KEYS.counters).items()}
        taken_off = counted.get(b"stored", 0) + counted.get(b"dead", 0) + counted.get(b"conflated", 0)
        assert counted.get(b"accepted", 0) + counted.get(b"foreign", 0) == taken_off

    def _send(self, sender: Sender) -> None:
        reason = sender.send()
        if reason is not None:
            assert any(key in reason for key, _ in self.spoilt), reason
            assert "riskstream repair" in reason

    def _store(self, *, acknowledged: bool = True) -> int:
        batch = decode_entries(KEYS.snapshots, read(self.source, wait=False))
        self.source.examine([batch])
        self.dead += len(batch.dead)
        duplicates = 0
        for each in (row.snapshot for row in batch.rows):
            key = self._key(each)
            duplicates += key in self.history
            self.history[key] = each.daily_pnl
            state = self.states.get(each.trader_id)
            if state is None or (state.epoch, state.seq) < (each.epoch, each.seq):
                self.states[each.trader_id] = each
        if batch and acknowledged:
            self.source.acknowledge([batch], [Outcome(batch.dead, duplicates)])
        return len(batch)

    def _store_all(self) -> None:
        self.source.rewind()
        while self._store():
            pass

    def _in_stream(self) -> list[WireSnapshot]:
        source = StreamSource(self.client, [0], batch_size=1_000, block_s=0.001)
        found: list[WireSnapshot] = []
        while entries := read(source, wait=False):
            found += [row.snapshot for row in decode_entries(KEYS.snapshots, entries).rows]
        return found

    @staticmethod
    def _key(each: WireSnapshot) -> Key:
        return each.trader_id, each.epoch, each.seq

    @staticmethod
    def _is_snapshot(raw: bytes | None) -> bool:
        return raw is not None and raw.startswith(b"{")


@pytest.mark.timeout(600)
def test_whatever_happens_in_whatever_order_nothing_is_lost(redis_url: str) -> None:
    """RISK_TEST_EXAMPLES: how many sequences."""
    with connect(redis_url) as client:
        Scripts.client = client
        run_state_machine_as_test(
            Scripts,
            settings=settings(
                max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "40")),
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
