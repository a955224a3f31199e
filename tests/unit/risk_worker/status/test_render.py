"""What the screen and the JSON say of a status."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from risk_worker.status.model import TradersStatus, TraderStatus
from risk_worker.status.render import EACH_MAX, Line, as_json, lines, wrapped
from tests.support.status import NOW, partitions, server, status, worker


def screen(**changes: object) -> str:
    return "\n".join(line.text for line in lines(status(**changes)))  # type: ignore[arg-type]


def test_a_system_that_is_well() -> None:
    text = screen()
    assert text.splitlines()[:4] == [
        "riskstream   2026-11-26 03:12:08 UTC",
        "Redis         127.0.0.1:6379  Valkey 9.1.0  12.0 MB of 512.0 MB  noeviction  append-only file "
        "(fsync always)",
        "Postgres      postgresql://risk@127.0.0.1/risk  15.4  TimescaleDB 2.28.3 Community, history is a "
        "hypertable  9 migrations",
        "Workers       1 alive",
    ]
    assert text.splitlines()[-1] == "✓ No problem was found."
    row = next(line for line in text.splitlines() if line.startswith("0 "))
    assert row.split() == ["0", "node-7", "4711", "2", "h", "0.1", "s", "3", "0.2", "s", "250", "0.3%"]


def test_the_problems_are_last_each_with_what_to_do() -> None:
    ending = screen(workers=(), partitions=partitions(4, ())).splitlines()[-3:]
    assert ending == [
        "✗ No worker is running, and 12 snapshots wait.",
        "  → Start one: riskstream worker",
        "1 problem",
    ]


def test_few_partitions_have_a_line_each_the_worst_first() -> None:
    some = list(partitions(EACH_MAX, (worker(),)))
    some[5] = replace(some[5], oldest_s=90.0, stalled_s=90.0)
    rows = [line.text for line in lines(status(EACH_MAX, partitions=tuple(some))) if line.text[:1].isdigit()]
    assert [int(row.split()[0]) for row in rows] == [5, *(n for n in range(EACH_MAX) if n != 5), 1]


def test_many_partitions_are_shown_by_their_worker() -> None:
    workers = tuple(worker(share, 4) for share in range(4))
    some = list(partitions(64, workers))
    some[9] = replace(some[9], error="Partition 9 cannot be drained: WRONGTYPE")
    some[30] = replace(some[30], oldest_s=45.0)
    shown = lines(status(64, workers, partitions=tuple(some)))
    rows = [line for line in shown if "node-7" in line.text or line.text[:2] == "9 "]
    assert [row.look for row in rows] == ["bad", "bad", "", "", "", ""]
    assert [row.text.split()[0] for row in rows] == ["9", "30", "0", "1", "2", "3"]
    assert rows[2].text.startswith("0 4 … 60 (16)  node-7 4711 ")
    assert rows[3].text.startswith("1 5 … 61 (15)  node-7 4712 ")
    assert rows[2].text.split()[11:13] == ["48", "0.2"], "in flight is the sum, the age the worst"
    assert len(shown) < 24


@pytest.mark.parametrize("drained", [True, False])
def test_the_screen_stays_small_whatever_there_is(drained: bool) -> None:
    workers = tuple(worker(share, 64) for share in range(64)) if drained else ()
    named = tuple(
        TraderStatus(f"trader-{n}", 400.0 + n, NOW + timedelta(hours=1), "limit") for n in range(10)
    )
    traders = TradersStatus(10_000, 10_000, 5_000, 4_000, named, named)
    more = {} if drained else {"oldest_s": 400.0, "stalled_s": 400.0}
    shown = lines(status(256, workers, partitions=partitions(256, workers, **more), traders=traders))
    assert len(shown) < 50
    text = "\n".join(line.text for line in shown)
    assert "10,000   5,000 paused   4,000 silent for over 5 min" in text
    assert "and 4,990 more paused" in text
    assert "until 04:12 UTC  limit" in text


def test_a_text_of_others_stays_on_its_line() -> None:
    some = (TraderStatus("evil\n✗ trader\x1b[31m", 1.0, None, "a\nb"),)
    text = screen(traders=TradersStatus(1, 1, 1, 0, some))
    assert "evil\\n✗ trader\\x1b[31m" in text
    assert "a\\nb" in text


def test_what_is_not_known_is_not_nothing() -> None:
    found = replace(status(), workers=None, traders=TradersStatus(in_redis=7), dead_letters=None)
    text = "\n".join(line.text for line in lines(found))
    assert "Workers       not known" in text
    assert "7 in Redis; more is not known" in text
    assert "Dead letters  not known" in text
    assert "no worker" not in text


def test_a_server_that_takes_no_writes_says_so() -> None:
    found = status().redis
    text = screen(redis=replace(found, servers=(server(role="slave", refusal="x (y). z"),)))
    assert "replica  takes no writes" in text


def test_sentences_are_wrapped_and_rows_are_cut() -> None:
    sentence = Line("✗ " + "word " * 30 + "end.", "bad", wraps=True)
    pieces = list(wrapped(sentence, 40))
    assert all(len(piece) <= 40 for piece in pieces)
    assert " ".join(" ".join(pieces).split()) == sentence.text
    assert list(wrapped(Line("x" * 50), 20)) == ["x" * 19 + "…"]


def test_json_is_one_line_with_everything() -> None:
    text = as_json(status(workers=(), partitions=partitions(4, ())))
    assert "\n" not in text
    found = json.loads(text)
    assert found["ok"] is False
    assert [each["name"] for each in found["problems"]] == ["no_worker"]
    assert [each["in_flight"] for each in found["partitions"]] == [3, 3, 3, 3]
    assert found["redis"]["servers"][0]["memory_limit"] == 512 << 20
    assert found["at"] == "2026-11-26T03:12:08Z"
    assert json.loads(as_json(status()))["ok"] is True
