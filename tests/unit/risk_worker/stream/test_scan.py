"""Keys of Redis are read whole, a page at a time, whatever is in them."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest
from redis.exceptions import ResponseError

from risk_producer.contract.keys import Keys
from risk_worker.stream import scan

KEYS = Keys(0)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PAGE", 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
def test_each_entry_is_read_once(client: fakeredis.FakeRedis, count: int) -> None:
    for number in range(1, count + 1):
        client.xadd(KEYS.snapshots, {"s": str(number)}, id=f"5-{number}")
    read = list(scan.entries(client, KEYS.snapshots))
    assert [entry_id for entry_id, _ in read] == [b"5-%d" % number for number in range(1, count + 1)]
    assert [fields[b"s"] for _, fields in read] == [b"%d" % number for number in range(1, count + 1)]


def test_entries_that_are_added_meanwhile_are_not_read(client: fakeredis.FakeRedis) -> None:
    for number in range(1, 8):
        client.xadd(KEYS.snapshots, {"s": str(number)})
    read = 0
    for _ in scan.entries(client, KEYS.snapshots):
        read += 1
        client.xadd(KEYS.snapshots, {"s": "later"})
    assert read == 7


def test_hashes_are_read_together_and_whole(client: fakeredis.FakeRedis) -> None:
    wanted: dict[str, Any] = {}
    for number in range(3):
        key = Keys(number).latest
        wanted[key] = {b"t%d" % each: b"x" * 100 for each in range(300 * number)}
        if wanted[key]:
            client.hset(key, mapping=wanted[key])
    client.set(Keys(9).latest, "no hash")
    found = scan.hashes(client, [*wanted, Keys(9).latest])
    assert isinstance(found.pop(Keys(9).latest), ResponseError)
    assert found == wanted
    assert scan.hashes(client, []) == {}


def test_each_field_is_read_once(client: fakeredis.FakeRedis) -> None:
    client.hset(KEYS.admitted, mapping={f"1:t{number}": number for number in range(10)})
    assert dict(scan.fields(client, KEYS.admitted)) == {
        b"1:t%d" % number: b"%d" % number for number in range(10)
    }


def test_the_last_seq_is_the_highest_of_all_partitions(client: fakeredis.FakeRedis) -> None:
    epochs = [(f"t{number}", 1) for number in range(7)]
    client.hset(Keys(0).admitted, mapping={"1:t0": 5, "1:t4": 8, "1:t5": "no number"})
    client.hset(Keys(1).admitted, mapping={"1:t0": 7, "1:t5": 3, "1:t6": 2**53})
    assert scan.admitted_seqs(client, [Keys(0), Keys(1)], epochs) == [7, 0, 0, 0, 8, None, None]


def test_nothing_is_known_where_the_key_has_another_type(client: fakeredis.FakeRedis) -> None:
    client.set(KEYS.admitted, "x")
    assert scan.admitted_seqs(client, [KEYS], [("a", 1), ("b", 1)]) == [None, None]


def test_a_wrong_type_is_a_sentence_and_another_error_is_raised(client: fakeredis.FakeRedis) -> None:
    client.set("k", "x")
    with pytest.raises(ResponseError) as caught:
        list(scan.entries(client, "k"))
    assert scan.wrong_type(client, "k", "stream", caught.value) == (
        "k holds a string where a stream is expected; riskstream repair puts it aside"
    )
    with pytest.raises(ResponseError, match="OOM"):
        scan.wrong_type(client, "k", "stream", ResponseError("OOM"))


def test_what_is_not_printable_is_escaped() -> None:
    assert scan.printable(b"a\xff\n\xc3\xbc" + b"x" * 300) == "a\\xff\\nü" + "x" * 195
