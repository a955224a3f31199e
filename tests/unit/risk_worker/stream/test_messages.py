"""What Python and the scripts say to each other is named, and is that of golden files, in both directions.

NAME.json is a message to a script, NAME.answer.json an answer. Message, answer, script and file change
together, in one commit. Nothing of it is a contract between versions: each process brings the text of its own
scripts, and so talks to scripts of its own version alone. What versions share are the keys and the entries of
the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import script
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.contract.wire import Identity, encode
from risk_producer.transport.requests import (
    Admission,
    Admit,
    Claim,
    OutgoingEntry,
    Skipped,
    Supersede,
    Unreadable,
)
from risk_worker.drain.batch import Batch, DeadLetter, Outcome, StreamEntry, decode_entries
from risk_worker.recovery import floors, rebind
from risk_worker.recovery import repair as repairs
from risk_worker.recovery.repair import Change
from risk_worker.stream import acknowledgement
from risk_worker.stream.acknowledgement import Acknowledged
from risk_worker.stream.source import Forget, Forgotten

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


def admit(*, accept_behind: bool) -> Admit:
    entries = [
        OutgoingEntry("a", 7, 3, 0, b"{}"),
        OutgoingEntry("größer", 7, 1, 0, b"{}"),
        OutgoingEntry("a", 7, 5, 1 if accept_behind else 0, b"{}"),
    ]
    known = Partitioning(3, 16, (4,)) if accept_behind else None
    return Admit(KEYS, 10, entries, accept_behind=accept_behind, partitioning=known)


SUPERSEDE = Supersede(KEYS, {"größer": 8, "a": 7, "b": 9, "c": 9})
CLAIM = Claim(KEYS, [(0, "größer"), (0, "a"), (1, "b")])
NOISE = b'\xff\0"{}'
SHOWN = repr(r'\xff\x00"{}')
CHANGES = [
    Change(KEYS.epochs, "a", NOISE, b"7", "is no epoch that can be used"),
    Change(KEYS.latest, "größer", None, payload("größer", 7, 3), "is missing"),
    Change(KEYS.admitted, "7:a", b"5", None, "is not the last seq that was admitted"),
]
BIG = 2**53 - 1


MESSAGES: dict[str, Callable[[], bytes]] = {
    "admit": lambda: admit(accept_behind=False).arguments()[0],
    "admit-all-keys": lambda: admit(accept_behind=True).arguments(replicated=True)[0],
    "claim": lambda: CLAIM.arguments()[0],
    "claim-floors": lambda: CLAIM.arguments({"größer": BIG - 2, "b": 7})[0],
    "supersede": lambda: SUPERSEDE.arguments()[0],
    "acknowledge-whole": lambda: msgspec.json.encode(acknowledgement.whole(*batch(), NOW, "own")),
    "acknowledge-listed": lambda: msgspec.json.encode(acknowledgement.listed(*batch(), NOW)),
    "forget": lambda: msgspec.json.encode(Forget(86_400_000, 1_000)),
    "restore": lambda: msgspec.json.encode(
        floors._Page(
            "comparing run ",
            [
                floors._State("größer", "7", 3, payload("größer", 7, 3).decode()),
                floors._State("moved", "7", 3, payload("moved", 7, 3).decode(), elsewhere=True),
            ],
        )
    ),
    "rebind": lambda: msgspec.json.encode(rebind._Message(1_000, "me@here", "the database was restored")),
    "repair": lambda: repairs.repair_arguments("me@here", "größer", CHANGES)[0],
}
ANSWERS: dict[str, tuple[Callable[[bytes], object], object]] = {
    "admit": (admit(accept_behind=False).admission, Admission(3, [])),
    "admit-all-keys": (
        admit(accept_behind=False).admission,
        Admission(
            3,
            [("a", 7)],
            {
                ("größer", 7): Skipped(
                    "behind",
                    BIG,
                    "Redis had lost the epochs of trader 'größer': it gave out 7, and Postgres knows 8",
                )
            },
        ),
    ),
    "admit-unreadable": (
        admit(accept_behind=False).admission,
        Admission(
            3,
            [],
            {
                ("a", 7): Skipped(
                    "unreadable",
                    0,
                    f"field '7:a' of risk:{{0}}:admitted in Redis holds {SHOWN}, which is no number that "
                    "can be used; the command to repair it: riskstream repair a",
                )
            },
        ),
    ),
    "admit-partitioning": (
        admit(accept_behind=True).admission,
        Admission(3, [], {}, Partitioning(4, 64, (16, 4))),
    ),
    "admit-unread": (
        admit(accept_behind=True).admission,
        Admission(
            3,
            [],
            unread=(
                "Redis does not tell how many partitions there are (NOPERM User t has no permissions to run "
                "the 'get' command); the user needs the permission for GET: ACL SETUSER USER +get"
            ),
        ),
    ),
    "supersede": (
        SUPERSEDE.answers,
        {
            "a": 7,
            "b": Unreadable(
                f"field 'b' of risk:{{0}}:epochs in Redis holds {SHOWN}, which is no number that can be "
                "used; the command to repair it: riskstream repair b"
            ),
            "c": BIG - 1,
        },
    ),
    "claim": (
        CLAIM.epochs,
        [
            BIG - 1,
            Unreadable(
                f"field 'a' of risk:{{0}}:epochs in Redis holds {SHOWN}, which is no number that can be "
                "used; the command to repair it: riskstream repair a"
            ),
            Unreadable(
                "field 'b' of risk:{0}:floors in Redis holds '1e5', which is no number that can be used; the "
                "command to repair it: riskstream repair b"
            ),
        ],
    ),
    "acknowledge": (msgspec.json.Decoder(Acknowledged).decode, Acknowledged(5)),
    "acknowledge-ids-needed": (
        msgspec.json.Decoder(Acknowledged).decode,
        Acknowledged(ids_needed=True),
    ),
    "acknowledge-other-database": (
        msgspec.json.Decoder(Acknowledged).decode,
        Acknowledged(database=r'\xff\x00"{}'),
    ),
    "forget": (msgspec.json.Decoder(Forgotten).decode, Forgotten(1)),
    "restore": (msgspec.json.Decoder(floors._Restored).decode, floors._Restored(1)),
    "restore-overtaken": (
        msgspec.json.Decoder(floors._Restored).decode,
        floors._Restored(overtaken=True),
    ),
    "rebind": (msgspec.json.Decoder(rebind._Changed).decode, rebind._Changed(1)),
    "rebind-changed-meanwhile": (msgspec.json.Decoder(rebind._Changed).decode, rebind._Changed(0)),
    "repair": (msgspec.json.Decoder(repairs._Changed).decode, repairs._Changed(3)),
    "repair-changed-meanwhile": (msgspec.json.Decoder(repairs._Changed).decode, repairs._Changed(0)),
}


@pytest.mark.parametrize("epochs", [(7, 8), (8, 7)])
def test_the_latency_is_that_of_the_newest_epoch(epochs: tuple[int, int]) -> None:
    entries = [
        StreamEntry(f"{at}-0", payload("a", epoch, 1, AT.replace(year=2018 + epoch)))
        for at, epoch in enumerate(epochs)
    ]
    made = decode_entries(KEYS.snapshots, entries)
    assert acknowledgement.newest_times(made, Outcome((), 0)) == {"a": AT}
    stored = acknowledgement.whole(made, Outcome((), 0), NOW).stored
    assert (stored.traders, stored.counts, stored.latencies_ms) == (["a"], [2], ["11.099"])


@pytest.mark.parametrize(
    ("waited_s", "sum_ms"),
    [((0.25, 1.5), 1_750), ((-5.0,), 0), ((7_200.0, 3_600.0, 1.0), 7_201_000), ((0.0004, 0.0004), 1)],
)
def test_how_long_a_batch_waited_is_the_same_whole_and_listed(waited_s: Sequence[float], sum_ms: int) -> None:
    """Ahead of the clock is no wait, and a record of the past is an hour."""
    entries = [
        StreamEntry(f"{seq}-0", payload("a", 1, seq, NOW - timedelta(seconds=each)))
        for seq, each in enumerate(waited_s, 1)
    ]
    made = decode_entries(KEYS.snapshots, entries)
    assert acknowledgement.whole(made, Outcome((), 0), NOW).waited_ms == sum_ms
    message = acknowledgement.listed(made, Outcome((), 0), NOW)
    listed = sum(entry.waited_ms for of in message.stored.entries for entry in of)
    assert (message.waited_ms, abs(listed - sum_ms) <= len(entries)) == (0, True)


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


class Scripts:
    """Runs the scripts, and holds their answers against the golden ones."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def check(self, answer: str, package: str, name: str, keys: Sequence[str], *arguments: bytes) -> None:
        said = self._client.register_script(script(package, *name.split()))(keys=keys, args=arguments)
        assert msgspec.json.decode(said) == msgspec.json.decode(golden(f"{answer}.answer"))

    def admit(self, answer: str, message: bytes) -> None:
        keys = (KEYS.snapshots, KEYS.latest, KEYS.epochs, KEYS.admitted, KEYS.counters)
        payloads = (b"{}", b"{}", b"{}")
        self.check(
            answer,
            "risk_producer.transport",
            "admit",
            (*keys, KEYS.floors, KEYS.behind, KEYS.partitioning),
            message,
            *payloads,
        )

    def claim(self, answer: str, message: str = "claim") -> None:
        keys = (KEYS.epochs, KEYS.floors, KEYS.superseded)
        self.check(answer, "risk_producer.transport", "epochs claim", keys, golden(message))

    def supersede(self, answer: str) -> None:
        keys = (KEYS.epochs, KEYS.floors, KEYS.superseded)
        self.check(answer, "risk_producer.transport", "epochs supersede", keys, golden("supersede"))

    def acknowledge(self, answer: str, message: bytes) -> None:
        keys = (KEYS.snapshots, KEYS.counters, KEYS.attempts, KEYS.failures, KEYS.latency_ms)
        self.check(
            answer,
            "risk_worker.stream",
            "acknowledge",
            (*keys, KEYS.latency_buckets, KEYS.admitted, KEYS.database),
            message,
        )

    def forget(self, answer: str) -> None:
        keys = (KEYS.superseded, KEYS.admitted, KEYS.epochs, KEYS.snapshots)
        self.check(answer, "risk_worker.stream", "forget", keys, golden("forget"))

    def restore(self, answer: str, expected: bytes = b"") -> None:
        keys = (KEYS.floors, KEYS.epochs, KEYS.latest, KEYS.admitted, KEYS.behind)
        self.check(answer, "risk_worker.recovery", "restore", keys, golden("restore"), expected)

    def rebind(self, answer: str, held: bytes) -> None:
        keys = (KEYS.database, KEYS.repairs, KEYS.floors)
        self.check(answer, "risk_worker.recovery", "rebind", keys, golden("rebind"), held, b"new")

    def repair(self, answer: str) -> None:
        keys = [KEYS.repairs, *(change.key for change in CHANGES)]
        values = repairs.repair_arguments("me@here", "größer", CHANGES)[1:]
        self.check(answer, "risk_worker.recovery", "repair", keys, golden("repair"), *values)


@pytest.fixture
def scripts(client: Any) -> Scripts:
    return Scripts(client)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_that_of_the_golden_file(name: str) -> None:
    assert MESSAGES[name]() == golden(name)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("decoded", [False, True], ids=["bytes", "texts"])
def test_an_answer_of_the_golden_file_is_read(name: str, decoded: bool) -> None:
    """A client of the trader's own may decode answers."""
    read, meaning = ANSWERS[name]
    answer: Any = golden(f"{name}.answer")
    assert read(answer.decode() if decoded else answer) == meaning


def test_each_golden_file_has_its_message() -> None:
    expected = {*MESSAGES, *(f"{name}.answer" for name in ANSWERS)}
    assert {path.name.removesuffix(".json") for path in GOLDEN.glob("*.json")} == expected


@pytest.mark.parametrize("name", ["admit", "admit-all-keys"])
def test_admit_takes_the_golden_message(client: Any, scripts: Scripts, name: str) -> None:
    client.hset(KEYS.epochs, mapping={"a": "7", "größer": "7"})
    scripts.admit("admit", golden(name))
    assert client.xlen(KEYS.snapshots) == 3
    assert client.hmget(KEYS.admitted, "7:a", "7:größer") == [b"5", b"1"]


@pytest.mark.parametrize("copy", [None, b"3:16,4", b"", b"\xff\xfe", b"x" * 100])
def test_admit_answers_another_copy_of_the_partitioning_alone(
    client: Any, scripts: Scripts, copy: bytes | None
) -> None:
    client.hset(KEYS.epochs, mapping={"a": "7", "größer": "7"})
    if copy is not None:
        client.set(KEYS.partitioning, copy)
    scripts.admit("admit", golden("admit-all-keys"))
    client.set(KEYS.partitioning, "4:64,16,4")
    scripts.admit("admit-partitioning", golden("admit-all-keys"))
    scripts.admit("admit", golden("admit"))  # a producer that does not ask
    client.delete(KEYS.partitioning)
    client.rpush(KEYS.partitioning, "of another type")
    scripts.admit("admit", golden("admit-all-keys"))


def test_a_new_epoch_exceeds_those_elsewhere(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, mapping={"a": NOISE})
    client.hset(KEYS.floors, "b", "1e5")
    scripts.claim("claim", "claim-floors")
    assert client.hget(KEYS.epochs, "größer") == b"%d" % (BIG - 1)


def test_supersede_answers_what_is_not_smaller_and_changes_the_rest(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, mapping={"größer": "7", "a": "7", "b": NOISE})
    client.hset(KEYS.floors, "c", str(BIG - 1))
    scripts.supersede("supersede")
    assert client.hmget(KEYS.epochs, "größer", "a", "b", "c") == [b"8", b"7", NOISE, None]
    [superseded] = client.lrange(KEYS.superseded, 0, -1)
    assert superseded.endswith(" 7:größer".encode())


def test_admit_answers_what_was_fenced_and_what_is_behind(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, mapping={"a": "8", "größer": "6"})
    client.hset(KEYS.floors, "größer", "8")
    client.hset(KEYS.admitted, "7:größer", BIG)
    scripts.admit("admit-all-keys", golden("admit"))
    assert client.xlen(KEYS.snapshots) == 2


def test_admit_answers_what_is_unreadable(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, mapping={"a": "7", "größer": "7"})
    client.hset(KEYS.admitted, "7:a", NOISE)
    scripts.admit("admit-unreadable", golden("admit"))
    assert client.xlen(KEYS.snapshots) == 1


def test_claim_takes_the_golden_message(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, mapping={"größer": BIG - 2, "a": NOISE})
    client.hset(KEYS.floors, "b", "1e5")
    scripts.claim("claim")
    assert client.hget(KEYS.epochs, "größer") == b"%d" % (BIG - 1)


@pytest.mark.parametrize("name", ["acknowledge-whole", "acknowledge-listed"])
def test_acknowledge_takes_the_golden_message(client: Any, scripts: Scripts, name: str) -> None:
    admitted = {"7:größer": 1, "7:a": 3, "8:a": 1, "9:b": 2}
    client.hset(KEYS.admitted, mapping=admitted)
    for entry_id in ("5-0", "5-1", "6-0", "7-0", "8-0", "9-0"):
        client.xadd(KEYS.snapshots, {"s": "{}"}, id=entry_id)
    scripts.acknowledge("acknowledge", golden(name))
    counted = client.hgetall(KEYS.counters)
    del counted[b"acknowledged_ms"]
    totals = {b"batches": b"1", b"stored": b"3", b"dead": b"2", b"duplicates": b"1", b"foreign": b"1"}
    assert counted == totals | {b"latency_sum_ms": b"33"}
    assert client.hgetall(KEYS.attempts) == {"größer".encode(): b"1", b"a": b"2", b"b": b"1"}
    assert client.hgetall(KEYS.failures) == {b"b": b"1"}
    assert client.hgetall(KEYS.latency_ms) == {"größer".encode(): b"11.099", b"a": b"11.099"}
    assert client.hgetall(KEYS.latency_buckets) == {b"12": b"3"}
    assert client.xlen(KEYS.snapshots) == 1


def test_acknowledge_asks_for_ids_where_the_stream_is_another(scripts: Scripts) -> None:
    scripts.acknowledge("acknowledge-ids-needed", golden("acknowledge-whole"))


def test_acknowledge_takes_nothing_off_the_stream_of_another_database(client: Any, scripts: Scripts) -> None:
    """The ids may be equal by chance."""
    for entry_id in ("5-0", "5-1", "6-0", "7-0", "8-0"):
        client.xadd(KEYS.snapshots, {"s": "{}"}, id=entry_id)
    client.set(KEYS.database, NOISE)
    before = {key: client.dump(key) for key in client.scan_iter()}
    scripts.acknowledge("acknowledge-other-database", golden("acknowledge-whole"))
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    client.set(KEYS.database, "own")
    scripts.acknowledge("acknowledge-ids-needed", golden("acknowledge-whole"))


def test_forget_takes_the_golden_message(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.admitted, mapping={"1:a": 1, "2:a": 1})
    client.rpush(KEYS.superseded, "5 1:a")
    scripts.forget("forget")
    assert client.hkeys(KEYS.admitted) == [b"2:a"]


@pytest.mark.parametrize("marker", [b"", b"comparing run of another", NOISE])
def test_restore_takes_the_golden_message(client: Any, scripts: Scripts, marker: bytes) -> None:
    if marker:
        client.hset(KEYS.floors, "", marker)
        scripts.restore("restore-overtaken")
        assert not client.exists(KEYS.latest)
    scripts.restore("restore", marker)
    assert client.hget(KEYS.latest, "größer") == payload("größer", 7, 3)
    assert client.hget(KEYS.epochs, "größer") == b"7"
    assert client.hget(KEYS.floors, "") == b"comparing run "


def test_repair_takes_the_golden_message(client: Any, scripts: Scripts) -> None:
    client.hset(KEYS.epochs, "a", NOISE)
    client.hset(KEYS.admitted, "7:a", 6)
    scripts.repair("repair-changed-meanwhile")
    assert not client.exists(KEYS.repairs)
    assert client.hget(KEYS.epochs, "a") == NOISE
    client.hset(KEYS.admitted, "7:a", 5)
    scripts.repair("repair")
    assert client.hget(KEYS.epochs, "a") == b"7"
    assert client.hget(KEYS.latest, "größer") == payload("größer", 7, 3)
    assert not client.exists(KEYS.admitted)
    [first, second, third] = [fields for _, fields in client.xrange(KEYS.repairs)]
    assert (first[b"before"], first[b"after"]) == (NOISE, b"7")
    assert (second[b"before"], second[b"after"]) == (b"", payload("größer", 7, 3))
    assert (third[b"field"], third[b"before"], third[b"after"]) == (b"7:a", b"5", b"")
    assert third[b"trader"] == "größer".encode()
    assert third[b"by"] == b"me@here"


@pytest.mark.parametrize("held", [b"", b"old", NOISE])
def test_rebind_writes_the_identity_and_its_record(client: Any, scripts: Scripts, held: bytes) -> None:
    if held:
        client.set(KEYS.database, held)
    client.hset(KEYS.floors, mapping={"": "run", "a": "7"})
    scripts.rebind("rebind-changed-meanwhile", b"other")
    assert client.exists(KEYS.repairs) == 0
    scripts.rebind("rebind", held)
    assert client.get(KEYS.database) == b"new"
    assert client.hgetall(KEYS.floors) == {b"a": b"7"}, "the workers compare this Redis with Postgres anew"
    [(_, record)] = client.xrange(KEYS.repairs)
    assert (record[b"by"], record[b"before"], record[b"after"]) == (b"me@here", held, b"new")
