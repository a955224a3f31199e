"""The spool against any order of events: incarnations that end by a crash, answers that are lost, a
stream that is full, segments that are rewritten."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from risk_producer.contract.wire import decode
from risk_producer.session.buffer import OnFull
from risk_producer.session.options import Options
from risk_producer.session.session import ProducerSession
from risk_producer.spool.spool import Spool
from risk_producer.transport.requests import Admission, Admit, Claim, OutgoingEntry
from tests.support.factory import snapshot

TRADERS = ("a", "b")


class Crashes(RuleBasedStateMachine):
    """At the end Redis has what all incarnations accepted: each snapshot once, under one epoch an incarnation
    and trader, seq without gaps, what was merged explained by the survivor, no change of reason lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="riskstream-test-"))
        self.producer: ProducerSession | None = None

    @initialize(
        on_full=st.sampled_from(get_args(OnFull)),
        size=st.integers(1, 12),
        maxlen=st.integers(1, 8),
        segment=st.sampled_from([600, 1 << 20]),
        most=st.sampled_from([2_000, 1 << 20]),
    )
    def begin(self, on_full: OnFull, size: int, maxlen: int, segment: int, most: int) -> None:
        self.options = Options(on_full=on_full, buffer_size=size, stream_maxlen=maxlen)
        self.most = most
        self.segment, self.maxlen = segment, maxlen
        self.number = self.epoch = self.incarnation = self.length = 0
        self.now = 0.0
        self.accepted: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.reasons: dict[float, str] = {}
        self.incarnation_of: dict[float, int] = {}
        self.admitted: dict[tuple[str, int], list[OutgoingEntry]] = defaultdict(list)
        self.arrived: dict[str, list[float]] = defaultdict(list)
        self.start()

    def start(self) -> None:
        self.incarnation += 1
        spool = Spool(self.folder, fsync="never", max_bytes=self.most)
        spool._segment_max = self.segment
        self.producer = ProducerSession(self.options, spool)

    @property
    def going(self) -> ProducerSession:
        assert self.producer is not None
        return self.producer

    @rule(saves=st.lists(st.tuples(st.sampled_from(TRADERS), st.sampled_from(["", "", "x"])), max_size=6))
    def save(self, saves: list[tuple[str, str]]) -> None:
        for trader_id, reason in saves:
            self.number += 1
            made = snapshot(trader_id, self.number, reason=reason)
            if self.going.accept(made) is not None:
                self.accepted[trader_id, self.incarnation].append(made.daily_pnl)
                self.reasons[made.daily_pnl] = reason
                self.incarnation_of[made.daily_pnl] = self.incarnation

    @rule(lost=st.booleans())
    def ask(self, lost: bool) -> None:
        self.now += 1
        sender = self.going._sender
        for call in sender.next_requests(self.now):
            answer: Any = (
                [self._claim() for _ in call.incarnations] if isinstance(call, Claim) else self._admit(call)
            )
            if not lost:
                sender.on_reply(call, answer, self.now)

    def _claim(self) -> int:
        self.epoch += 1
        return self.epoch

    def _admit(self, call: Admit) -> Admission:
        """As admit.lua does."""
        count = 0
        for entry in call.entries:
            known = self.admitted[entry.trader_id, entry.epoch]
            if not known or entry.seq > known[-1].seq:
                if self.length >= self.maxlen:
                    break
                self.length += 1
                known.append(entry)
                self.arrived[entry.trader_id].append(decode(entry.payload).daily_pnl)
            count += 1
        return Admission(count, [])

    @rule()
    def drain(self) -> None:
        self.length = 0

    @rule(torn=st.none() | st.binary(max_size=40))
    def end(self, torn: bytes | None) -> None:
        """A crash, perhaps in the middle of writing a record; or a close() that gives up."""
        assert self.going.spool is not None
        if torn is None:
            assert self.going.end()
        else:
            self.going.spool.abandon()
            for newest in sorted(self.folder.glob("*.segment"))[-1:]:
                with newest.open("ab") as file:
                    file.write(torn)
        self.start()

    @invariant()
    def the_disk_works(self) -> None:
        if self.producer is not None:
            assert self.going.health().spool == "on"
            assert self.going.totals().reconciled

    def teardown(self) -> None:
        try:
            if self.producer is not None:
                self._send_and_check()
        finally:
            shutil.rmtree(self.folder)

    def _send_and_check(self) -> None:
        for _ in range(1000):
            if not self.going._buffer.depth:
                break
            self.drain()
            self.ask(lost=False)
        assert not self.going._buffer.depth
        assert self.going.end()
        assert self.going.all_confirmed()
        assert not list(self.folder.glob("*.segment"))
        epochs: dict[tuple[str, int], set[int]] = defaultdict(set)
        stored: dict[tuple[str, int], list[tuple[int, int, float]]] = defaultdict(list)
        for (trader_id, epoch), entries in self.admitted.items():
            for entry in entries:
                pnl = decode(entry.payload).daily_pnl
                epochs[trader_id, self.incarnation_of[pnl]].add(epoch)
                stored[trader_id, self.incarnation_of[pnl]].append((entry.seq, entry.merged, pnl))
        assert all(arrived == sorted(arrived) for arrived in self.arrived.values()), (
            "older incarnations first"
        )
        assert stored.keys() == {key for key, accepted in self.accepted.items() if accepted}
        for key, rows in stored.items():
            accepted = self.accepted[key]
            assert len(epochs[key]) == 1
            stood_for = [at for seq, merged, _ in rows for at in range(seq - merged, seq + 1)]
            assert stood_for == list(range(1, len(accepted) + 1))
            assert all(accepted[seq - 1] == pnl for seq, _, pnl in rows)
            kept = {pnl for _, _, pnl in rows}
            for before, after in pairwise(accepted):
                assert after in kept or self.reasons[before] == self.reasons[after]


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(
    max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "20")), stateful_step_count=50
)
