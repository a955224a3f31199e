"""The number of partitions changes at any moment: nothing is lost, repeated, or out of its order."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.wire import WireSnapshot
from risk_producer.errors import StreamUnavailable
from risk_producer.session.options import Options
from risk_producer.session.session import ProducerSession
from risk_producer.spool.spool import Spool
from risk_producer.transport.requests import TraderStream
from tests.support.factory import snapshot
from tests.support.redis import stream_of

EXAMPLES = settings(max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "25")))
TRADERS = ("a", "b", "c", "d", "e")
HELD = "b"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.sampled_from(TRADERS)),
        st.tuples(st.sampled_from(["send", "send", "lose the answer", "lose one answer", "fail"]), st.none()),
        st.tuples(st.just("divide"), st.sampled_from([1, 2, 3, 4, 16, 64])),
        st.tuples(st.sampled_from(["fill", "drain", "spoil", "repair"]), st.none()),
    ),
    max_size=60,
)


class Trial:
    """A session, and a flusher that a test drives."""

    def __init__(self, spool: Spool | None, on_full: Any) -> None:
        self.client: Any = fakeredis.FakeRedis()
        self.stream = TraderStream(self.client)
        self.session = ProducerSession(Options(buffer_size=40, partitions=2, on_full=on_full), spool)
        self.now = 0.0
        self.session.divide(Partitioning(1, 2), self.now)
        self.saved: dict[str, int] = defaultdict(int)
        self.drained: list[WireSnapshot] = []

    def step(self, kind: str, argument: Any) -> None:
        if kind == "save":
            number = self.saved[argument]
            if self.session.accept(snapshot(argument, number, trading_paused=number % 3 == 0)) is not None:
                self.saved[argument] += 1
        elif kind == "divide":
            known = self.session.partitioning
            if argument != known.partitions:
                self.session.divide(known.announced(argument), self.now)
                self.session.divide(known.announced(argument).changed(argument), self.now)
        elif kind == "fill":
            self.session._sender._maxlen = 1
        elif kind == "drain":
            self.session._sender._maxlen = 1_000
            self.drain()
        elif kind in ("spoil", "repair"):
            for partition in range(64):
                if kind == "spoil":
                    self.client.hset(Keys(partition).epochs, HELD, "x")
                elif self.client.hget(Keys(partition).epochs, HELD) == b"x":
                    self.client.hdel(Keys(partition).epochs, HELD)
        else:
            self.send(kind)

    def send(self, kind: str = "send") -> bool:
        """One round. Returns whether there was one."""
        self.now += 10.0
        requests = self.session.next_requests(self.now)
        if not requests:
            return False
        if kind == "fail":
            self.session.on_error(StreamUnavailable("away"), self.now)
            return True
        replies = self.stream.ask(requests)
        if kind == "lose the answer":
            self.session.on_error(StreamUnavailable("away"), self.now)
            return True
        if kind == "lose one answer":
            replies[len(replies) // 2] = StreamUnavailable("away")
        self.session.on_replies(replies, self.now)
        return True

    def drain(self) -> None:
        """As workers do, in whatever order."""
        for partition in range(64):
            self.drained += stream_of(self.client, partition)
            self.client.delete(Keys(partition).snapshots)

    def end(self) -> None:
        self.step("repair", None)
        self.step("drain", None)
        for _ in range(400):
            if not self.send() and not self.session.depth:
                break
        assert not self.session.depth
        assert self.session._buffer.left == 0
        assert self.session.totals().reconciled
        self.drain()


@pytest.mark.parametrize("on_full", ["block", "conflate"])
@pytest.mark.parametrize("spooled", [False, True])
@given(steps=STEPS)
@EXAMPLES
def test_nothing_is_lost_repeated_or_out_of_order(spooled: bool, on_full: str, steps: Any) -> None:
    with TemporaryDirectory() as folder:
        spool = Spool(Path(folder), fsync="never", max_bytes=1 << 20) if spooled else None
        trial = Trial(spool, on_full)
        for kind, argument in steps:
            trial.step(kind, argument)
        trial.end()
        if spool is not None:
            spool.close(empty=True)
    found: dict[str, list[WireSnapshot]] = defaultdict(list)
    for each in sorted(trial.drained, key=lambda each: (each.epoch, each.seq)):
        found[each.trader_id].append(each)
    for trader_id, count in trial.saved.items():
        rows = found[trader_id]
        numbers = [row.daily_pnl for row in rows]
        assert numbers == sorted(set(numbers)), trader_id
        assert sum(1 + row.merged for row in rows) == count
        assert numbers[-1:] == [count - 1] or not count
        seqs: dict[int, int] = defaultdict(int)
        for row in rows:
            assert row.seq - row.merged == seqs[row.epoch] + 1
            seqs[row.epoch] = row.seq
