"""A trader with a spool, killed with -9 at random moments, Redis away half of the time, and a drain behind.

Each snapshot for which save() returned True is in history exactly once, or is one of those that a snapshot
in history says it stands for. RISK_TEST_KILLS sets how many times; RISK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest
import redis
from prometheus_client import CollectorRegistry

from risk_producer import RiskProducer
from risk_producer.contract.keys import Keys
from risk_worker.audit.verify import look
from tests.conftest import MakeValkey
from tests.support.ledger import draining
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

ROUNDS = int(os.environ.get("RISK_TEST_KILLS", 5))
INCARNATION = 1_000_000
"""Snapshots are numbered; each incarnation of the trader starts at another million."""

_TRADER = """
import os, sys, time
from risk_producer import RiskProducer, RiskSnapshot
url, spool, accepted, first, on_full, ready = sys.argv[1:]
said = os.open(accepted, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
producer = RiskProducer(url, spool_dir=spool, buffer_size=2000, on_full=on_full, save_timeout_s=0.01,
                        spool_max_bytes=400_000)
for number in range(int(first), int(first) + 1_000_000):
    snapshot = RiskSnapshot(trader_id=f"t{number % 3}", daily_pnl=number, drawdown_pct=0, current_equity=1,
                            peak_equity=1, reason="" if number % 20 else f"r{number}")
    if producer.save(snapshot):
        os.write(said, b"%d\\n" % number)
    if number % 10 == 0:
        time.sleep(0.001)
    if number == int(first):
        open(ready, "w").close()
"""


@pytest.mark.timeout(300 + 6 * ROUNDS)
@pytest.mark.parametrize("on_full", ["refuse", "conflate"])
def test_killed_at_random_moments(
    tmp_path: Path, make_valkey: MakeValkey, database_url: str, on_full: str
) -> None:
    seed = int(os.environ.get("RISK_TEST_SEED", random.randrange(1 << 30)))
    print(f"RISK_TEST_SEED={seed} RISK_TEST_KILLS={ROUNDS}")
    rng = random.Random(seed)
    valkey = make_valkey()
    said = tmp_path / "accepted"
    said.touch()
    with draining(valkey.url, database_url):
        for number in range(ROUNDS):
            if rng.random() < 0.5 and valkey.running:
                valkey.kill()
            elif not valkey.running:
                valkey.start()
            ready = tmp_path / f"ready-{number}"
            arguments = [valkey.url, str(tmp_path / "spool"), str(said), str(number * INCARNATION)]
            command = [sys.executable, "-c", _TRADER, *arguments, on_full, str(ready)]
            with ChildProcess(tmp_path / "log", {}, command) as trader:
                wait_until(ready.exists, 30)
                time.sleep(rng.uniform(0, 0.3))  # the random moment
                trader.kill()
        if not valkey.running:
            valkey.start()
        with (
            RiskProducer(valkey.url, spool_dir=tmp_path / "spool", registry=CollectorRegistry()) as last,
            redis.Redis.from_url(valkey.url) as client,
        ):
            assert last.flush(60)
            wait_until(lambda: not client.xlen(Keys(0).snapshots), 60, "the drain")
            report = look(client, database_url, 1)
    assert report.problems == []
    accepted = [int(line) for line in said.read_text().split()]
    assert len(accepted) > ROUNDS
    merged = check_history(database_url, accepted)
    assert on_full == "conflate" or not merged
    print(f"{len(accepted)} accepted, {merged} merged; {report.totals}")


def check_history(database_url: str, accepted: list[int]) -> int:
    """The n-th that an incarnation accepted of a trader has seq n, and a row is for it or stands for it.

    Returns how many were merged.
    """
    accepted_by: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number in accepted:
        accepted_by[f"t{number % 3}", number // INCARNATION].append(number)
    rows: dict[tuple[str, int], list[tuple[int, int, int, int]]] = defaultdict(list)
    with psycopg.connect(database_url) as db:
        for trader_id, *row in db.execute(
            "SELECT trader_id, epoch, seq, merged, daily_pnl::bigint FROM risk_state_history ORDER BY 1, 2, 3"
        ):
            rows[trader_id, row[3] // INCARNATION].append((row[0], row[1], row[2], row[3]))
    unreported = []
    for key in accepted_by.keys() | rows.keys():
        trader_id, number = key
        epochs = {epoch for epoch, *_ in rows[key]}
        assert len(epochs) == 1, "an identity for good"
        stood_for = [at for _, seq, merged, _ in rows[key] for at in range(seq - merged, seq + 1)]
        assert stood_for == list(range(1, len(stood_for) + 1)), "lost, or twice"
        mine = accepted_by[key]
        if len(stood_for) == len(mine) + 1:  # written down, and killed before it was reported
            unreported.append(number)
            mine.append(rows[key][-1][3])
        assert len(stood_for) == len(mine)
        assert [pnl for *_, pnl in rows[key]] == [mine[seq - 1] for _, seq, _, _ in rows[key]]
        kept = {pnl for *_, pnl in rows[key]}
        reasons = [at if at % 20 == 0 else 0 for at in mine]
        changed = {at for at, one, other in zip(mine, [0, *reasons], reasons, strict=False) if one != other}
        assert changed <= kept, "a change was merged away"
    assert len(unreported) == len(set(unreported)), "one an incarnation at the most"
    return sum(merged for of_life in rows.values() for _, _, merged, _ in of_life)
