"""How far a partition is, and who notices when it does not move."""

from __future__ import annotations

import logging
import math
from typing import Any

import fakeredis
import pytest

from risk_producer.contract.counters import ACKNOWLEDGED_MS
from risk_producer.contract.keys import Keys, Keyspace
from risk_worker.stream import progress
from risk_worker.stream.progress import Watch, duration

KEYS = Keys(0)


def now_ms(client: Any) -> int:
    seconds, microseconds = client.time()
    return int(seconds * 1000 + microseconds // 1000)


def waits(client: Any, age_s: float, count: int = 1) -> None:
    first = now_ms(client) - round(age_s * 1000)
    for number in range(count):
        client.xadd(KEYS.snapshots, {"s": "{}"}, id=f"{first}-{number + 1}")


def acknowledged(client: Any, age_s: float) -> None:
    client.hset(KEYS.counters, ACKNOWLEDGED_MS, now_ms(client) - round(age_s * 1000))


def test_nothing_waits_nothing_is_stalled(client: Any) -> None:
    acknowledged(client, 1_000)
    [seen] = progress.read(client, [0])
    assert (seen.length, seen.oldest_age_s, seen.stalled_s) == (0, 0, 0)
    assert progress.problems(client, range(1)) == []


def test_it_is_stalled_since_the_oldest_came_or_since_the_last_acknowledgement(client: Any) -> None:
    waits(client, 365, count=1_234)
    assert progress.problems(client, range(1)) == [
        "Partition 0 has not been drained for 6 min (1,234 snapshots wait)"
    ]
    acknowledged(client, 70)  # it was drained meanwhile, but not for a minute
    [seen] = progress.read(client, [0])
    assert seen.oldest_age_s == pytest.approx(365, abs=5)
    assert seen.stalled_s == pytest.approx(70, abs=5)
    acknowledged(client, 2)  # a backlog that is being drained
    assert progress.problems(client, range(1)) == []
    acknowledged(client, 10_000)  # and nothing came for long after that
    assert progress.problems(client, range(1)) != []


@pytest.mark.parametrize("value", ["abc", "", "nan", "inf", b"\xff", "1e400"])
def test_an_acknowledgement_that_cannot_be_read_is_none(client: Any, value: Any) -> None:
    waits(client, 100)
    client.hset(KEYS.counters, ACKNOWLEDGED_MS, value)
    assert len(progress.problems(client, range(1))) == 1
    client.delete(KEYS.counters)
    client.set(KEYS.counters, "another type")
    assert len(progress.problems(client, range(1))) == 1


def test_a_stream_that_cannot_be_read_is_a_problem_at_once(client: Any) -> None:
    client.set(Keys(1).snapshots, "x")
    waits(client, 1)
    [problem] = progress.problems(client, range(2))
    assert problem.startswith("Partition 1 cannot be drained: Redis' key risk:{1}:snapshots cannot be read")
    assert "WRONGTYPE" in problem


def test_a_clock_that_went_back_hides_no_stall(client: Any) -> None:
    """Ids and the last acknowledgement are ahead of Redis' clock by a day."""
    waits(client, -86_400)
    acknowledged(client, -86_400)
    now = 0.0
    watch = Watch(client, range(1), clock=lambda: now)
    assert watch.stalled() == []
    now = 59
    assert watch.stalled() == []
    now = 61
    assert [str(each) for each in watch.stalled()] == [
        "Partition 0 has not been drained for 61 s (1 snapshot waits)"
    ]
    client.xtrim(KEYS.snapshots, maxlen=0)
    waits(client, -86_401)
    assert watch.stalled() == [], "it moves"


def test_a_stall_is_logged_once_and_again_each_minute_and_at_its_end(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits(client, -1_000, count=2)
    times = iter([0, 0, 30, 30, 60, 60, 65, 65, 119, 119, 121, 121, 150, 150, 180, 180, 185, 185])
    watch = Watch(client, range(1), clock=lambda: next(times))
    said = []
    for _ in range(7):
        caplog.clear()
        watch.report()
        said.append([record.message for record in caplog.records])
    sentence = "Partition 0 has not been drained for {} (2 snapshots wait)."
    assert said == [[], [], [sentence.format("60 s")], [], [], [sentence.format("2 min")], []]
    client.xtrim(KEYS.snapshots, maxlen=0)
    for _ in range(2):
        watch.report()
    assert [r.message for r in caplog.records] == ["Partition 0 is drained again after 2 min."]


def test_redis_that_does_not_answer_is_an_error_not_an_answer(client: Any) -> None:
    class Away(fakeredis.FakeRedis):
        def pipeline(self, *_args: Any, **_options: Any) -> Any:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        progress.problems(Away(), range(1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert math.isfinite(seconds)


def test_with_several_namespaces_each_partition_has_a_name_of_its_own(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Partition 0 of each waits, and the second one moves."""
    desks = Keyspace.of(["desk1", "desk2"])
    for keys in (Keys(0, "desk1"), Keys(0, "desk2")):
        client.xadd(keys.snapshots, {"s": "x"}, id="1-0")
    seconds, nanoseconds = client.time()
    client.hset(Keys(0, "desk2").counters, ACKNOWLEDGED_MS, f"{seconds}{nanoseconds // 1000:03}")
    assert [each.split(" (")[0][:44] for each in progress.problems(client, desks.numbers(2), desks)] == [
        "Partition desk1/0 has not been drained for 2"
    ]
    watch = Watch(client, desks.numbers(2), desks)
    assert [desks.number_of(each.keys) for each in watch.report()] == [0]
    client.delete(Keys(0, "desk1").snapshots)
    watch.report()
    assert "Partition desk1/0 is drained again after" in caplog.messages[-1]
