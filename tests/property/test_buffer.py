"""The buffer, with every policy, against any order of events."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from risk_producer.item import Item
from risk_producer.session.buffer import Buffer, OnFull
from risk_producer.session.sender import Sender
from risk_producer.transport.requests import Admission, Admit, Claim, OutgoingEntry
from tests.support.factory import snapshot

TRADERS = ("a", "b", "c")
KEPT = st.fixed_dictionaries(
    {},
    optional={
        "trading_paused": st.just(True),
        "paused_until": st.just(datetime(2030, 1, 1, tzinfo=UTC)),
        "reason": st.just("x"),
    },
)
"""What must never be dropped, where it changes."""


def _kept(item: Any) -> tuple[Any, ...]:
    return item.trading_paused, item.paused_until, item.reason


class Outgoing(RuleBasedStateMachine):
    """Traders put and cancel; a Redis with a cap answers, loses answers, is full, is drained.

    At the end what Redis has must be what was accepted: each snapshot once, in order, seq without gaps,
    what was merged explained by the survivor, and no pause lost.
    """

    @initialize(
        on_full=st.sampled_from(get_args(OnFull)),
        size=st.integers(1, 12),
        partitions=st.integers(1, 3),
        maxlen=st.integers(1, 8),
    )
    def begin(self, on_full: OnFull, size: int, partitions: int, maxlen: int) -> None:
        self.size = size
        self.maxlen = maxlen
        self.buffer = Buffer(size, partitions, on_full)
        self.sender = Sender(self.buffer, threading.Lock, maxlen)
        self.conflating = on_full == "conflate"
        self.now = 0.0
        self.number = 0
        self.epoch = 0
        self.accepted: dict[str, list[Any]] = defaultdict(list)
        self.items: list[Item] = []
        self.lengths: dict[int, int] = defaultdict(int)
        self.admitted: dict[str, list[OutgoingEntry]] = defaultdict(list)

    @rule(trader_id=st.sampled_from(TRADERS), kept=KEPT)
    def put(self, trader_id: str, kept: dict[str, Any]) -> None:
        self.number += 1
        made = snapshot(trader_id, self.number, **kept)
        was_full = self.buffer.depth >= self.size
        item = self.buffer.put(made)
        if item is None:
            assert was_full
            return
        assert self.conflating or not was_full
        self.accepted[trader_id].append(made)
        self.items.append(item)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        item = data.draw(st.sampled_from(self.items))
        made = item.snapshot
        if self.buffer.cancel(item):
            self.accepted[made.trader_id].remove(made)

    @rule(lost=st.sets(st.integers(0, 2)))
    def ask(self, lost: set[int]) -> None:
        """lost: the partitions whose answers are lost."""
        self.now += 1
        calls = self.sender.next_requests(self.now)
        assert sum(map(len, calls)) <= max(1, self.size // 2)
        assert len({call.keys.partition for call in calls}) == len(calls)
        for call in calls:
            answer: Any = (
                [self._claim() for _ in call.incarnations] if isinstance(call, Claim) else self._admit(call)
            )
            if call.keys.partition not in lost:
                self.sender.on_reply(call, answer, self.now)

    def _claim(self) -> int:
        self.epoch += 1
        return self.epoch

    def _admit(self, call: Admit) -> Admission:
        """As admit.lua does."""
        count = 0
        for entry in call.entries:
            known = self.admitted[entry.trader_id]
            if not known or entry.seq > known[-1].seq:
                if self.lengths[call.keys.partition] >= self.maxlen:
                    break
                self.lengths[call.keys.partition] += 1
                known.append(entry)
            count += 1
        return Admission(count, [])

    @rule()
    def drain(self) -> None:
        self.lengths.clear()

    @invariant()
    def the_bound_holds(self) -> None:
        assert len(self.buffer.items()) == self.buffer.depth <= self.size

    @invariant()
    def memory_knows_the_newest(self) -> None:
        for trader_id in TRADERS:
            expected = self.accepted[trader_id][-1] if self.accepted[trader_id] else None
            assert self.buffer.newest(trader_id) is expected

    def teardown(self) -> None:
        if not hasattr(self, "sender"):
            return
        for _ in range(1000):
            if not self.buffer.depth:
                break
            self.drain()
            self.ask(lost=set())
        assert not self.buffer.depth
        for trader_id in TRADERS:
            made, entries = self.accepted[trader_id], self.admitted[trader_id]
            explained = [seq for entry in entries for seq in range(entry.seq - entry.merged, entry.seq + 1)]
            assert explained == list(range(1, len(made) + 1))
            for entry in entries:
                assert f'"daily_pnl":{made[entry.seq - 1].daily_pnl}'.encode() in entry.payload
            stored = [made[entry.seq - 1] for entry in entries]
            for before, after in zip([None, *made], made, strict=False):
                if before is None or _kept(before) != _kept(after):
                    assert after in stored, "a change was dropped"
        assert self.buffer.conflated == sum(e.merged for known in self.admitted.values() for e in known)


TestOutgoing = Outgoing.TestCase
TestOutgoing.settings = settings(
    max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "20")), stateful_step_count=60
)
