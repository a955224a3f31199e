"""A status as lines for a person, and as JSON for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import msgspec

from risk_worker.status.model import PartitionStatus, Problem, Status, TraderStatus, WorkerStatus
from risk_worker.status.of_postgres import DEAD_COUNTED, SILENT_S
from risk_worker.status.problems import FILLED, problems
from risk_worker.stream.progress import BOUND_S, duration
from risk_worker.stream.server import ServerFacts

Look = Literal["", "head", "dim", "good", "bad", "note"]
"""How a line is shown on a terminal that has colours."""

EACH_MAX: Final = 16
"""So many partitions have a line each."""
BAD_MAX: Final = 8
"""Of more, so many of the worst have; the others are shown by their worker."""
OLD_S: Final = 10.0
"""A snapshot that waits for longer is shown as trouble."""

_HEAD: Final = ("partition", "worker", "up", "last commit", "in flight", "oldest", "rows/s", "of its cap")
_TEXTS: Final = 2
"""The first columns, which are texts; the others are numbers."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the screen."""

    text: str
    look: Look = ""
    wraps: bool = False
    """Whether it is a sentence, which may take several lines; else what is too wide is cut off."""


def as_json(status: Status) -> str:
    """One object in one line: ok, problems, and all of the status."""
    found = problems(status)
    whole = {"ok": not any(each.serious for each in found), "problems": found}
    return msgspec.json.encode(whole | msgspec.to_builtins(status)).decode()


def lines(status: Status) -> list[Line]:
    """The screen, the problems last."""
    found = problems(status)
    namespace = f"   namespace {status.namespace}" if status.namespace else ""
    return [
        Line(f"riskstream   {status.at:%Y-%m-%d %H:%M:%S} UTC{namespace}", "head"),
        *_servers(status),
        Line(""),
        *_partitions(status),
        Line(""),
        *_totals(status),
        *_traders(status),
        Line(""),
        *_problems(found),
    ]


def wrapped(line: Line, width: int) -> Iterator[str]:
    """A line as it fits; sentences are wrapped, and indented below their mark."""
    if len(line.text) <= width:
        yield line.text
    elif line.wraps:
        yield from textwrap.wrap(line.text, width, subsequent_indent="  ", break_long_words=False)
    else:
        yield line.text[: max(1, width - 1)] + "…"


def _servers(status: Status) -> Iterator[Line]:
    redis = status.redis
    if redis.error:
        yield _fact("Redis", f"{redis.url}: not known", "bad")
    for server in redis.servers:
        yield _fact("Redis", _server(server), "bad" if server.refusal else "")
    if status.queue.separate:
        queue = status.queue
        yield _fact(
            "RQ's Redis", f"{queue.url}{': not known' if queue.error else ''}", "bad" if queue.error else ""
        )
    postgres = status.postgres
    if postgres.error:
        yield _fact("Postgres", f"{postgres.url}: not known", "bad")
    else:
        migrations = f"{postgres.applied or 0} migrations" + (
            f", {len(postgres.pending)} not applied" if postgres.pending else ""
        )
        yield _fact(
            "Postgres",
            f"{postgres.url}  {postgres.version}  {postgres.timescale}  {migrations}",
            "bad" if postgres.hinders else "",
        )
    yield _workers(status)


def _server(server: ServerFacts) -> str:
    where = server.address or "no server"
    if len(server.partitions) and server.away:
        return f"{where}: not known"
    parts = [where, server.version or "version not known"]
    if server.memory_used is not None:
        limit = "without a limit" if server.memory_limit is None else f"of {_size(server.memory_limit)}"
        parts.append(f"{_size(server.memory_used)} {limit}")
    if server.eviction_policy is not None:
        parts.append(server.eviction_policy)
    if server.persistence is not None:
        parts.append(server.persistence)
    if server.role not in (None, "master"):
        parts.append("replica")
    return "  ".join(parts) + ("  takes no writes" if server.refusal else "")


def _workers(status: Status) -> Line:
    if status.workers is None:
        return _fact("Workers", "not known", "bad")
    alive = [each for each in status.workers if each.state == "alive"]
    others = [each for each in status.workers if each.state != "alive"]
    text = f"{len(alive)} alive" if alive else "none"
    if others:
        text += f", {len(others)} not heard of: {', '.join(each.where for each in others[:3])}"
    return _fact("Workers", text, "" if alive else "bad")


def _partitions(status: Status) -> Iterator[Line]:
    if status.partitions is None:
        yield Line("partitions: not known, as Redis does not answer", "bad")
        return
    groups = _groups(status.partitions)
    rows = [_row(status, group) for group in groups]
    for at, text in enumerate(_aligned([_HEAD, *rows])):
        if at == 0:
            yield Line(text, "dim")
        else:
            trouble = any(_is_trouble(each) for each in groups[at - 1])
            yield Line(text, "bad" if trouble else "")
    if any(len(group) > 1 for group in groups):
        yield Line("of several partitions: in flight and rows/s are the sum, the others the worst", "dim")


def _is_trouble(each: PartitionStatus) -> bool:
    return bool(
        each.error
        or each.oldest_s >= OLD_S
        or each.filled >= FILLED
        or each.stalled_s is None
        or each.stalled_s >= BOUND_S
    )


def _worst_first(each: PartitionStatus) -> tuple[bool, bool, float, int]:
    if not _is_trouble(each):
        return True, True, 0.0, each.partition
    return False, not each.error, -max(each.oldest_s, each.filled), each.partition


def _groups(partitions: Sequence[PartitionStatus]) -> list[list[PartitionStatus]]:
    """One of each partition where they are few; else one of each of the worst, then one of each worker, where
    there are few of them."""
    ordered = sorted(partitions, key=_worst_first)
    if len(ordered) <= EACH_MAX:
        return [[each] for each in ordered]
    bad = [each for each in ordered if _is_trouble(each)][:BAD_MAX]
    by_worker: dict[tuple[bool, WorkerStatus | None], list[PartitionStatus]] = {}
    for each in ordered[len(bad) :]:
        by_worker.setdefault((_is_trouble(each), each.worker), []).append(each)
    groups = list(by_worker.values())
    if len(groups) > EACH_MAX:
        rest = ordered[len(bad) :]
        halves = [[each for each in rest if _is_trouble(each) is trouble] for trouble in (True, False)]
        groups = [half for half in halves if half]
    return [*([each] for each in bad), *groups]


def _row(status: Status, group: Sequence[PartitionStatus]) -> tuple[str, ...]:
    drained = {each.worker for each in group}
    worker = group[0].worker if len(drained) == 1 else None
    error = next((each.error for each in group if each.error), "")
    commits = [each.last_commit_s for each in group if each.last_commit_s is not None]
    rates = [each.rows_per_s for each in group if each.rows_per_s is not None]
    if error:
        return (_numbers(group), "cannot be read", "", "", "", "", "", "")
    if len(drained) > 1:
        drained_by = f"{len(drained - {None})} workers"
    elif worker is not None:
        drained_by = worker.where
    elif status.workers is None:
        drained_by = "not known"
    else:
        drained_by = "-" if any(each.state == "alive" for each in status.workers) else "no worker"
    return (
        _numbers(group),
        drained_by,
        _age(_up_s(status, worker)),
        _age(max(commits)) if commits else "never",
        f"{sum(each.in_flight for each in group):,}",
        _age(max(each.oldest_s for each in group)) if any(each.in_flight for each in group) else "-",
        f"{sum(rates):,.0f}" if rates else "-",
        f"{max(each.filled for each in group):.1%}",
    )


def _up_s(status: Status, worker: WorkerStatus | None) -> float | None:
    if worker is None or worker.since is None:
        return None
    return max(0.0, (status.at - worker.since).total_seconds())


def _numbers(group: Sequence[PartitionStatus]) -> str:
    numbers = [each.shown for each in group]
    if len(numbers) <= 4:
        return " ".join(numbers)
    return f"{numbers[0]} {numbers[1]} … {numbers[-1]} ({len(numbers)})"


def _totals(status: Status) -> Iterator[Line]:
    if status.totals is not None:
        in_flight = sum(each.in_flight for each in status.partitions or ())
        counts = {**status.totals, "in flight": in_flight}
        yield _fact("Totals", "  ".join(f"{name} {value:,}" for name, value in counts.items()))
    dead = status.dead_letters
    if dead is None:
        yield _fact("Dead letters", "not known")
    else:
        more = f"more than {DEAD_COUNTED:,}" if dead.more else f"{dead.count:,}"
        yield _fact("Dead letters", more, "bad" if dead.count else "")


def _traders(status: Status) -> Iterator[Line]:
    found = status.traders
    if found.stored is None:
        known = "not known" if found.in_redis is None else f"{found.in_redis:,} in Redis; more is not known"
        yield _fact("Traders", known)
        return
    yield _fact(
        "Traders",
        f"{found.stored:,}   {found.paused or 0:,} paused   {found.silent or 0:,} silent for over "
        f"{duration(SILENT_S)}",
    )
    yield from _named("paused", found.some_paused, found.paused or 0, status.at)
    yield from _named("silent", found.some_silent, found.silent or 0, status.at)


def _named(kind: str, some: Sequence[TraderStatus], count: int, now: datetime) -> Iterator[Line]:
    if not some:
        return
    width = min(40, max(len(_printable(each.trader_id)) for each in some))
    for each in some:
        until = "" if each.paused_until is None else f"  until {_moment(each.paused_until, now)}"
        reason = f"  {_printable(each.reason)}" if each.reason else ""
        yield Line(
            f"  {kind}  {_printable(each.trader_id):<{width}}  last snapshot {_age(each.silent_s)} ago"
            f"{until}{reason}",
            "note" if kind == "paused" else "dim",
        )
    if count > len(some):
        yield Line(f"  and {count - len(some):,} more {kind}", "dim")


def _problems(found: Sequence[Problem]) -> Iterator[Line]:
    for each in found:
        text = _printable(each.what)
        mark = "✗" if each.serious else "!"
        yield Line(f"{mark} {text.removesuffix('.')}.", "bad" if each.serious else "note", wraps=True)
        if each.todo:
            yield Line(f"  → {_printable(each.todo)}", "head", wraps=True)
    serious = sum(each.serious for each in found)
    if serious:
        yield Line(f"{serious} problem{'' if serious == 1 else 's'}", "bad")
    else:
        yield Line("✓ No problem was found.", "good")


def _fact(name: str, text: str, look: Look = "") -> Line:
    return Line(f"{name:<14}{text}", look)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they need; texts to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells: Iterable[str] = (
            cell.ljust(width) if at < _TEXTS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _age(seconds: float | None) -> str:
    """For a person: 0.4 s, 12 s, 6 min."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _moment(at: datetime, now: datetime) -> str:
    """A time in UTC, with its day where that is another one."""
    return f"{at:%H:%M} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M} UTC"


def _size(number: int) -> str:
    for size, unit in ((1 << 30, "GB"), (1 << 20, "MB")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1024:,.0f} kB"


def _printable(text: str) -> str:
    """On one line, whatever was written there."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return line if len(line) <= 500 else f"{line[:499]}…"
