"""Python's messages to the scripts are those of golden files, and the scripts take what the files hold.

A message and its script change together, in one commit with the file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import script
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import Identity, encode
from risk_producer.transport.requests import Admit, OutgoingEntry
from risk_worker.drain.batch import Batch, DeadLetter, Outcome, StreamEntry, decode_entries
from risk_worker.recovery import floors
from risk_worker.stream import acknowledgement

KEYS = Keys(0)
GOLDEN = Path(__file__).parents[3] / "golden" / "scripts"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
NOW = datetime(2026, 1, 2, 3, 4, 5, 690000, UTC)


def payload(trader: str, epoch: int, seq: int, recorded_at: datetime = AT) -> bytes:
    made = RiskSnapshot(
        trader_id=trader,
        daily_pnl=-12.5,
        drawdown_pct=0.125,
        current_equity=99_987.5,
        peak_equity=100_000.0,
        recorded_at=recorded_at,
    )
    return encode(made, epoch, seq)


def batch() -> tuple[Batch, Outcome]:
    """Two traders, one of them with two epochs, an entry that is no snapshot and one that names itself."""
    entries = [
        StreamEntry("5-0", payload("größer", 7, 1)),
        StreamEntry("5-1", payload("a", 7, 3)),
        StreamEntry("6-0", payload("a", 8, 1)),
        StreamEntry("7-0", b"nonsense"),
    ]
    made = decode_entries(KEYS.snapshots, entries)
    named = DeadLetter("8-0", "why", b"x", identity=Identity("b", 9, 2))
    made.dead.append(named)
    made.last = "8-0"
    return made, Outcome(made.dead, duplicates=1)


def admit(*, accept_behind: bool) -> bytes:
    entries = [
        OutgoingEntry("a", 7, 3, 0, b"{}"),
        OutgoingEntry("größer", 7, 1, 0, b"{}"),
        OutgoingEntry("a", 7, 5, 1 if accept_behind else 0, b"{}"),
    ]
    return Admit(KEYS, 10, entries, accept_behind=accept_behind).arguments[0]


STATE = floors._State("größer", "7", 3, payload("größer", 7, 3).decode())
MESSAGES: dict[str, Callable[[], bytes]] = {
    "admit": lambda: admit(accept_behind=False),
    "admit-all-keys": lambda: admit(accept_behind=True),
    "acknowledge-whole": lambda: msgspec.json.encode(acknowledgement.whole(*batch(), NOW)),
    "acknowledge-listed": lambda: msgspec.json.encode(acknowledgement.listed(*batch(), NOW)),
    "restore": lambda: msgspec.json.encode(
        floors._Page(
            "", "comparing run ", [floors._State("größer", "7", 3, payload("größer", 7, 3).decode())]
        )
    ),
}


@pytest.mark.parametrize("epochs", [(7, 8), (8, 7)])
def test_the_latency_is_that_of_the_newest_epoch(epochs: tuple[int, int]) -> None:
    entries = [
        StreamEntry(f"{at}-0", payload("a", epoch, 1, AT.replace(year=2018 + epoch)))
        for at, epoch in enumerate(epochs)
    ]
    made = decode_entries(KEYS.snapshots, entries)
    assert acknowledgement.newest_times(made, Outcome((), 0)) == {"a": AT}
    [of_trader] = acknowledgement.whole(made, Outcome((), 0), NOW).stored
    assert (of_trader.count, of_trader.latency_ms) == (2, "11.099")


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_that_of_the_golden_file(name: str) -> None:
    assert MESSAGES[name]() == golden(name)


def test_each_golden_file_has_its_message() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(MESSAGES)


@pytest.mark.parametrize("name", ["admit", "admit-all-keys"])
def test_admit_takes_the_golden_message(client: Any, name: str) -> None:
    client.hset(KEYS.epochs, mapping={"a": "7", "größer": "7"})
    run = client.register_script(script("risk_producer.transport", "admit"))
    keys = (KEYS.snapshots, KEYS.latest, KEYS.epochs, KEYS.admitted, KEYS.counters, KEYS.floors, KEYS.behind)
    assert run(keys=keys, args=[golden(name), b"{}", b"{}", b"{}"]) == [3, [], []]
    assert client.xlen(KEYS.snapshots) == 3
    assert client.hmget(KEYS.admitted, "7:a", "7:größer") == [b"5", b"1"]


@pytest.mark.parametrize("name", ["acknowledge-whole", "acknowledge-listed"])
def test_acknowledge_takes_the_golden_message(client: Any, name: str) -> None:
    admitted = {"7:größer": 1, "7:a": 3, "8:a": 1, "9:b": 2}
    client.hset(KEYS.admitted, mapping=admitted)
    for entry_id in ("5-0", "5-1", "6-0", "7-0", "8-0", "9-0"):
        client.xadd(KEYS.snapshots, {"s": "{}"}, id=entry_id)
    run = client.register_script(script("risk_worker.stream", "acknowledge"))
    keys = (KEYS.snapshots, KEYS.counters, KEYS.attempts, KEYS.failures, KEYS.latency_ms)
    assert run(keys=(*keys, KEYS.latency_buckets, KEYS.admitted), args=[golden(name)]) == 5
    counted = client.hgetall(KEYS.counters)
    del counted[b"acknowledged_ms"]
    totals = {b"batches": b"1", b"stored": b"3", b"dead": b"2", b"duplicates": b"1", b"foreign": b"1"}
    assert counted == totals
    assert client.hgetall(KEYS.attempts) == {"größer".encode(): b"1", b"a": b"2", b"b": b"1"}
    assert client.hgetall(KEYS.failures) == {b"b": b"1"}
    assert client.hgetall(KEYS.latency_ms) == {"größer".encode(): b"11.099", b"a": b"11.099"}
    assert client.hgetall(KEYS.latency_buckets) == {b"12": b"3"}
    assert client.xlen(KEYS.snapshots) == 1


def test_restore_takes_the_golden_message(client: Any) -> None:
    run = client.register_script(script("risk_worker.recovery", "restore"))
    keys = (KEYS.floors, KEYS.epochs, KEYS.latest, KEYS.admitted, KEYS.behind)
    assert run(keys=keys, args=[golden("restore")]) == [b"comparing run ", 1]
    assert client.hget(KEYS.latest, "größer") == payload("größer", 7, 3)
    assert client.hget(KEYS.epochs, "größer") == b"7"
