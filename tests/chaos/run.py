"""A run: the schedule happens, every fault ends, and what was accepted is reconciled with what is stored."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import redis

from risk_devkit.embedded import EmbeddedServerError
from risk_producer.contract.keys import partition_of
from tests.chaos.engine import Begun, Engine, Undo
from tests.chaos.oracle import OWN, Answers, compare, trace_of
from tests.chaos.producer import POISON
from tests.chaos.schedule import Fault, schedule
from tests.chaos.system import System

DRAIN_TIMEOUT_S: Final = 90.0
UNDO_TIMEOUT_S: Final = 60.0
UNDO_AGAIN_S: Final = 0.5
PREVENTED: Final = (psycopg.Error, redis.RedisError, EmbeddedServerError)
"""What is raised where another fault is in the way."""
QUIET: Final = (
    "calm",
    "verify",
    "retry the dead",
    "poison by hand",
    "copy by hand",
    "values",
    "foreign entries",
    "foreign counters",
)
"""What interrupts nothing by itself."""


@dataclass(slots=True)
class Happened:
    """A fault, and when it really was; seconds since 1970."""

    fault: Fault
    began: float
    partitions: frozenset[int] = frozenset()
    """Those that it concerns; empty: all."""
    lines: Counter[str] = field(default_factory=Counter)
    """Process -> warnings and errors that it had logged before."""
    ended: float = 0.0


class Store(NamedTuple):
    """Something of one partition was stored; seconds since 1970."""

    at: float
    first_recorded_at: float
    """When the first of it was recorded, by the clock of its trader."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What followed from a fault that came alone."""

    back_s: float
    """Until all partitions stored again after it was undone; below 0: they did before."""
    own_s: float
    """The longest time in which a partition that it concerns stood still."""
    others_s: float
    """The same of the others."""
    lines: int
    """Warnings and errors that one process logged, the most."""


@dataclass(slots=True)
class Result:
    """What a run found."""

    engine: str
    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    totals: dict[str, int] = field(default_factory=dict)
    promised: int = 0
    tried: int = 0
    refused: int = 0
    poison_by_hand: int = 0
    stall_s: float = 0.0
    stall_during: list[str] = field(default_factory=list)
    drained_after_s: float = 0.0
    alone: dict[str, list[Alone]] = field(default_factory=dict)
    """Kind of fault -> each time that it came alone."""
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def run(
    folder: Path,
    engine: Engine,
    *,
    seed: int,
    seconds: float,
    rate: float = 200.0,
    kinds: Collection[str] = (),
    in_turn: bool = False,
    desks: int = 0,
    say: Callable[[str], None] = print,
) -> Result:
    """Let it happen, and check. What is wrong is in the result; it also goes to say, line by line."""
    in_turn = in_turn or engine.in_turn
    faults = schedule(seed, seconds, kinds, kinds=engine.kinds, in_turn=in_turn)
    result = Result(engine.name, seed, seconds)
    with System(folder, engine, rate=rate, desks=desks) as system:
        began = time.time()
        happened = let_happen(system, faults, say)
        say("Healed. Producers stop, workers drain.")
        system.stop_producers()
        stopped = time.time()
        result.wrong += wait_for_empty_streams(system)
        drained = time.time()
        result.drained_after_s = drained - stopped
        result.faults.update(f"{each.fault.target}: {each.fault.kind}" for each in happened)
        _check(system, result)
        measure(system, result, happened, began, drained)
        system.stop_workers()
        _check_leftovers(system, result)
        result.seen = system.seen
        result.wrong += system.wrong
    return result


def let_happen(
    system: System,
    faults: Sequence[Fault],
    say: Callable[[str], None],
    watch: Callable[[], None] = lambda: None,
    until_s: float = 0.0,
) -> list[Happened]:
    """Each fault at its time, and what undoes it; watch() is called between them.

    Each in a thread of its own: while one waits for a server that another has taken away, that one is undone
    in time, and workers that ended are started again. Nothing is hit again before what hit it is undone.
    """
    happened: list[Happened] = []
    of_target: dict[str, threading.Lock] = defaultdict(threading.Lock)
    over = threading.Event()
    began = time.monotonic()

    def happens(fault: Fault) -> None:
        with of_target[fault.target]:
            if over.is_set():
                return
            say(str(fault))
            event = Happened(fault, time.time(), lines=system.warnings())
            happened.append(event)
            undo, event.partitions = _begin(system, fault)
            over.wait(max(0.0, began + fault.at_s + fault.lasts_s - time.monotonic()))
            _undo(system, fault, undo)
            event.ended = time.time()

    left = deque(faults)
    running: list[Future[None]] = []
    with ThreadPoolExecutor(len(faults) or 1, "fault") as threads, _set_at_the_end(over):
        while left or running or time.monotonic() - began < until_s:
            while left and time.monotonic() - began >= left[0].at_s:
                running.append(threads.submit(happens, left.popleft()))
            for each in [each for each in running if each.done()]:
                running.remove(each)
                each.result()
            system.supervise()
            watch()
            time.sleep(0.05)
    system.supervise()
    return sorted(happened, key=attrgetter("began"))


@contextlib.contextmanager
def _set_at_the_end(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()


def _begin(system: System, fault: Fault) -> Begun:
    """A fault that another one prevents (no lock on a server that is away) counts as none."""
    try:
        return system.begin(fault)
    except PREVENTED as error:
        system.seen[f"{fault.target}: {fault.kind} could not be done: {type(error).__name__}"] += 1
        return Begun()


def _undo(system: System, fault: Fault, undo: Undo) -> None:
    """Undo it, again and again while another fault is in the way, and not for ever."""
    give_up = time.monotonic() + UNDO_TIMEOUT_S
    for tries in count(1):
        try:
            undo()
        except PREVENTED as error:
            if time.monotonic() > give_up:
                system.wrong.append(
                    f"{fault} could not be undone: {tries} tries in {UNDO_TIMEOUT_S:g} s, the last one "
                    f"ended with {type(error).__name__}: {error}"
                )
                return
            time.sleep(UNDO_AGAIN_S)
        else:
            if tries > 1:
                system.seen[f"{fault.target}: {fault.kind} was undone by more than one try"] += 1
            return


def wait_for_empty_streams(system: System) -> list[str]:
    """Until the workers have drained everything. Returns what is wrong."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while system.in_flight():
        system.supervise()
        if time.monotonic() > deadline:
            logs = "\n".join(f"{n}:\n{p.log[-3000:]}" for n, p in system.processes.items() if "worker" in n)
            return [f"{system.in_flight()} still in flight {DRAIN_TIMEOUT_S} s after all healed\n{logs}"]
        time.sleep(0.05)
    return []


def _check(system: System, result: Result) -> None:
    answers = Answers()
    for notes in system.notes:
        answers.read(notes)
    result.tried, result.promised, result.refused = (
        len(answers.tried),
        len(answers.promised),
        len(answers.refused),
    )
    result.poison_by_hand = len(system.poison_sure)
    result.totals = verify(system, result)
    result.wrong += compare(answers, system.postgres.url, system.foreign, POISON)
    result.wrong += _compare_poison(system, answers)

    # What the database refused becomes welcome: a retry stores all of it, exactly once.
    system.execute("ALTER TABLE risk_state_history DROP CONSTRAINT no_poison")
    retried = system.run_operator("dead", "retry")
    if retried.returncode not in (0, 1) or "Traceback" in retried.stderr:
        result.wrong.append(f"dead retry: {retried.stderr}")
    after = verify(system, result)
    [(left,)] = system.execute("SELECT count(*) FROM risk_dead_letter")
    if after["dead"] != left:
        result.wrong.append(f"after a retry verify counts {after['dead']} dead letters of {left}")
    result.wrong += [
        f"{trace} is a dead letter after a retry"
        for trace, _ in map(trace_of, _dead(system).values())
        if trace in answers.tried
    ]
    result.wrong += compare(answers, system.postgres.url, system.foreign, POISON)


def verify(system: System, result: Result) -> dict[str, int]:
    done = system.run_operator("verify", "--json")
    if done.returncode != 0:
        result.wrong.append(f"verify ended with {done.returncode}: {done.stdout[-3000:]} {done.stderr}")
    said: dict[str, int] = json.loads(done.stdout or '{"dead": -1}')
    return said


def _dead(system: System) -> dict[str, bytes]:
    rows = system.execute(f"SELECT stream || ' ' || entry_id, payload FROM risk_dead_letter WHERE {OWN}")
    return {name: bytes(payload) for name, payload in rows}


def _compare_poison(system: System, answers: Answers) -> Iterator[str]:
    """Each entry added by hand is a dead letter with its own bytes, and there are no others."""
    sent = answers.tried.keys() | system.foreign
    found = {name: payload for name, payload in _dead(system).items() if trace_of(payload)[0] not in sent}
    for name, payload in system.poison_sure.items():
        if found.pop(name, None) != payload:
            yield f"the poison {name} is not among the dead letters as it was"
    for name, payload in found.items():
        if payload not in system.poison_perhaps:
            yield f"the dead letter {name} was never added"


def _check_leftovers(system: System, result: Result) -> None:
    """RQ's keys do not pile up, however many workers died."""
    with system.engine.rq() as client:
        keys = sorted(key.decode() for key in client.scan_iter(match=f"{system.keyspace.rq_prefix}:*"))
    result.seen["RQ keys at the end"] = len(keys)
    if len(keys) > 40:
        result.wrong.append(f"{len(keys)} keys of RQ are left: {keys}")


def measure(system: System, result: Result, happened: list[Happened], began: float, drained: float) -> None:
    """The longest time in which a partition stood still; how soon all stored again after each fault."""
    stores: dict[int, list[Store]] = {partition: [] for partition in range(system.partitions)}
    for trader_id, stored_at, recorded_at in system.execute(
        "SELECT trader_id, extract(epoch FROM stored_at)::float8,"
        " extract(epoch FROM min(recorded_at))::float8"
        " FROM risk_state_history GROUP BY trader_id, stored_at ORDER BY stored_at"
    ):
        if began <= stored_at <= drained:
            stores[partition_of(trader_id, system.partitions)].append(Store(stored_at, recorded_at))
    for partition, stored in stores.items():
        for since, until in stalls(stored, began, drained):
            if until - since > result.stall_s:
                result.stall_s = until - since
                clock = datetime.fromtimestamp(since, UTC).strftime("%H:%M:%S.%f")[:-3]
                result.stall_during = [
                    f"partition {partition} from {since - began:.1f} s on ({clock} UTC)",
                    *(str(e.fault) for e in happened if e.began < until and e.ended > since - 3),
                ]
    loud = [each for each in happened if each.fault.kind not in QUIET]
    counts = [*(each.lines for each in loud[1:]), system.warnings()]
    for each, lines in zip(loud, counts, strict=True):
        firsts = [next((of.at for of in stored if of.at >= each.ended), None) for stored in stores.values()]
        if any(first is None for first in firsts):
            continue
        back = max(first for first in firsts if first is not None)
        alone = all(other is each or other.ended < each.began - 5 or other.began > back for other in loud)
        if alone:
            name = f"{each.fault.target.rstrip('0123456789').rstrip('-')}: {each.fault.kind}"
            stood = {p: _stood_still(stored, each.began, back) for p, stored in stores.items()}
            own = each.partitions or stood.keys()
            result.alone.setdefault(name, []).append(
                Alone(
                    back - each.ended,
                    max(stood[p] for p in own),
                    max((stood[p] for p in stood.keys() - own), default=0.0),
                    max((lines - each.lines).values(), default=0),
                )
            )


def stalls(stored: Iterable[Store], began: float, until: float) -> Iterator[tuple[float, float]]:
    """From when to when a partition stood still, between these moments: it stored nothing, though there was
    something that it stored next."""
    before = began
    for each in stored:
        since = before
        if before < each.first_recorded_at < each.at:  # a trader's clock may be ahead
            since = each.first_recorded_at
        if since < min(each.at, until):
            yield since, min(each.at, until)
        before = max(before, each.at)


def _stood_still(stored: Iterable[Store], began: float, until: float) -> float:
    return max((to - since for since, to in stalls(stored, began, until)), default=0.0)


def _worst(alone: list[Alone]) -> str:
    own, others, back = (max(map(attrgetter(f"{name}_s"), alone)) for name in ("own", "others", "back"))
    return (
        f"{len(alone)} times; its partitions stood still {own:.1f} s, the others {others:.1f} s; all stored "
        f"{back:.1f} s after it was undone; {max(each.lines for each in alone)} log lines of a process"
    )


def report(result: Result) -> str:
    """For a person."""
    lines = [f"engine {result.engine}, seed {result.seed}, {result.seconds:g} s of faults"]
    lines.append(f"faults: {sum(result.faults.values())}")
    lines += [f"  {number:4} {name}" for name, number in sorted(result.faults.items())]
    lines.append(
        f"producers: {result.tried:,} tried, {result.promised:,} acknowledged, {result.refused:,} refused"
    )
    lines.append(f"poison added by hand: {result.poison_by_hand}")
    lines.append("totals: " + ", ".join(f"{n} {v:,}" for n, v in result.totals.items() if type(v) is int))
    lines.append(f"streams empty {result.drained_after_s:.1f} s after the producers stopped")
    lines.append(f"longest stall of a partition: {result.stall_s:.1f} s")
    lines += [f"  {line}" for line in result.stall_during]
    lines.append("faults that came alone, the longest and the most of each:")
    lines += [f"  {name}: {_worst(each)}" for name, each in sorted(result.alone.items())]
    lines += [f"seen: {number} x {what}" for what, number in sorted(result.seen.items())]
    lines += [f"✗ {what}" for what in result.wrong[:60]]
    again = f"make chaos ENGINE={result.engine} SECONDS={result.seconds:g} SEED={result.seed}"
    lines.append(
        f"✗ {len(result.wrong)} things are wrong; again: {again}"
        if result.wrong
        else "✓ Every acknowledged snapshot is stored exactly once, and all is reconciled."
    )
    return "\n".join(lines)
