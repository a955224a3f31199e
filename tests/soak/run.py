"""A steady load for a long time, with a few faults; all must be reconciled, and nothing may have grown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

import msgspec

from tests.chaos.engines.single import Single
from tests.chaos.oracle import Answers, compare
from tests.chaos.run import Happened, Result, let_happen, measure, verify, wait_for_empty_streams
from tests.chaos.schedule import Fault
from tests.chaos.system import System
from tests.soak.samples import Sample, Sampler, growth

SAMPLE_EVERY_S: Final = 10.0
PRODUCERS: Final = 5
STALL_MAX_S: Final = 40.0
"""A partition stores again within it, whatever happened: the longest outage and a lease that runs out."""


@dataclass(slots=True)
class Soaked:
    """What a soak found."""

    samples: list[Sample] = field(default_factory=list)
    promised: int = 0
    refused: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    stall_s: float = 0.0
    stall_during: list[str] = field(default_factory=list)
    drained_after_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def schedule(seconds: float, workers: int, kill_every_s: float) -> list[Fault]:
    """A worker killed now and then, in turn; Redis frozen twice, Postgres restarted twice."""
    outage_s = min(8.0, seconds / 15)
    faults = [
        Fault(seconds * part, kind, target, outage_s, 0)
        for part, kind, target in (
            (0.2, "freeze", "redis"),
            (0.4, "restart", "postgres"),
            (0.6, "freeze", "redis"),
            (0.8, "restart", "postgres"),
        )
    ]
    kills = int((seconds - 1) / kill_every_s)
    faults += [
        Fault(kill_every_s * number, "kill -9", f"worker-{number % workers}", 1.0, 0)
        for number in range(1, kills + 1)
    ]
    return sorted(faults, key=lambda fault: fault.at_s)


def run(
    folder: Path,
    *,
    seconds: float,
    rate: float,
    traders: int,
    workers: int,
    partitions: int,
    kill_every_s: float,
    say: Callable[[str], None] = print,
    record: TextIO | None = None,
) -> Soaked:
    """Let it run, and check. record: gets each sample as a line of JSON."""
    soaked = Soaked()
    with System(
        folder,
        Single(linked=False),
        rate=rate,
        workers=[f"worker-{number}" for number in range(workers)],
        producers=[f"producer-{number}" for number in range(PRODUCERS)],
        partitions=partitions,
        traders_each=max(1, traders // PRODUCERS),
        maxlen=1_000_000,
        batch_size=5_000,
    ) as system:
        sampler = Sampler(system)
        due_s = time.monotonic() + SAMPLE_EVERY_S

        def watch() -> None:
            nonlocal due_s
            if time.monotonic() < due_s:
                return
            due_s += SAMPLE_EVERY_S
            sample = sampler.take()
            soaked.samples.append(sample)
            say(sample.line())
            if record is not None:
                record.write(msgspec.json.encode(sample).decode() + "\n")
                record.flush()

        began = time.time()
        happened = let_happen(system, schedule(seconds, workers, kill_every_s), say, watch, seconds)
        system.stop_producers()
        stopped = time.time()
        soaked.wrong += wait_for_empty_streams(system)
        drained = time.time()
        soaked.drained_after_s = drained - stopped
        _check(system, soaked, Result("single", 0, seconds), happened, began, drained)
        system.stop_workers()
        soaked.wrong += system.wrong
    return soaked


def _check(
    system: System, soaked: Soaked, result: Result, happened: list[Happened], began: float, drained: float
) -> None:
    answers = Answers()
    for notes in system.notes:
        answers.read(notes)
    soaked.promised, soaked.refused = len(answers.promised), len(answers.refused)
    soaked.totals = verify(system, result)
    soaked.wrong += compare(answers, system.postgres.url)
    measure(system, result, happened, began, drained)
    soaked.stall_s, soaked.stall_during = result.stall_s, result.stall_during
    if soaked.stall_s > STALL_MAX_S:
        soaked.wrong.append(f"a partition stored nothing for {soaked.stall_s:.1f} s: {soaked.stall_during}")
    soaked.wrong += result.wrong
    soaked.wrong += growth(soaked.samples)


def report(soaked: Soaked) -> str:
    """For a person."""
    counts = ", ".join(f"{name} {count:,}" for name, count in soaked.totals.items() if type(count) is int)
    waits = [sample.longest_wait_s for sample in soaked.samples]
    lines = [
        f"{soaked.promised:,} acknowledged, {soaked.refused:,} refused",
        f"totals: {counts}",
        f"streams empty {soaked.drained_after_s:.1f} s after the producers stopped",
        f"longest wait of a snapshot: {max(waits, default=0.0):.1f} s",
        f"longest stall of a partition: {soaked.stall_s:.1f} s",
        *(f"  {line}" for line in soaked.stall_during),
        *(f"✗ {what}" for what in soaked.wrong[:60]),
        f"✗ {len(soaked.wrong)} things are wrong."
        if soaked.wrong
        else "✓ Every acknowledged snapshot is stored exactly once, all is reconciled, and nothing grew.",
    ]
    return "\n".join(lines)
