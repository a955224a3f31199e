"""A minute of the soak, and that what it says of growth can be believed."""

from __future__ import annotations

import pytest

from tests.soak import run as soak
from tests.soak.samples import Sample, growth
from tests.support.servers import server_folder


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_minute_of_soak() -> None:
    with server_folder() as folder:
        soaked = soak.run(folder, seconds=60, rate=300, traders=50, workers=3, partitions=4, kill_every_s=20)
        print(soak.report(soaked))
    assert soaked.wrong == []
    assert soaked.promised > 5_000
    assert len(soaked.samples) >= 5


def samples(*descriptors: int) -> list[Sample]:
    return [
        Sample(at_s=10.0 * n, descriptors={"worker": count}, keys={"rq:job:#": 4})
        for n, count in enumerate(descriptors)
    ]


def test_what_goes_up_and_down_has_not_grown() -> None:
    assert growth(samples(5, 30, 40, 30, 42, 31, 41, 30, 43, 29)) == []


def test_what_goes_up_and_up_has_grown() -> None:
    assert growth(samples(5, 30, 40, 50, 60, 70, 80, 90, 100, 110)) == [
        "descriptors of worker grew from 70 to 110"
    ]


def test_a_soak_of_no_samples_proves_nothing() -> None:
    assert growth(samples(5)) == ["there are too few samples to compare"]


def test_the_schedule_has_what_it_says_and_ends_in_time() -> None:
    faults = soak.schedule(1800, 3, 20)
    kinds = [fault.kind for fault in faults]
    assert (kinds.count("freeze"), kinds.count("restart"), kinds.count("kill -9")) == (2, 2, 89)
    assert max(fault.at_s + fault.lasts_s for fault in faults) < 1800
    assert {fault.target for fault in faults if fault.kind == "kill -9"} == {
        "worker-0",
        "worker-1",
        "worker-2",
    }
