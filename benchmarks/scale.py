"""The figures of docs/scale.md, from growth.json: each block between two comments of the page."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from benchmarks import blocks
from benchmarks.blocks import Blocks, rounded, spread, table
from benchmarks.points import RUSH, STEADY, Found, line, mid, point, sum_us

SIZES: Final = (1_000, 100_000, 1_000_000)
BUSY: Final = 0.6
"""How much of its processor a process may use, so that there is room for peaks and for catching up."""
_GIB: Final = 2**30
_DAY_S: Final = 86_400
OUTAGE_S: Final = 600
"""An outage of the workers or of Postgres that the streams are to hold."""
FAILOVER_S: Final = 4
"""What the buffers of the producers are to hold: a master of a cluster is replaced."""
_PARTS: Final = {
    "producer": "producer: making a snapshot, `save()`, the flusher",
    "redis_admits": "Redis: admitting it",
    "redis_reads": "Redis: giving it out, and acknowledging it",
    "worker": "worker",
    "postgres": "Postgres, all of its processes",
}
_ONE: Final = {
    "producer": "producer process",
    "worker": "worker",
    "redis": "server of Redis",
    "postgres": "core of Postgres",
}
_HOW: Final = {
    _ONE["producer"]: "measured",
    _ONE["worker"]: "measured",
    _ONE["redis"]: "from its processor time, as one thread runs the commands",
    _ONE["postgres"]: "from its processor time",
}
_BYTES: Final = {
    "bytes_to_redis": "network, producers and Redis",
    "bytes_from_redis": "network, Redis and workers",
    "bytes_to_postgres": "network, workers and Postgres (TCP's payload; 0 where the system does not tell)",
    "bytes_stream": "Redis' memory while it waits in the stream",
    "bytes_log": "Redis' append-only file, until it is rewritten",
    "bytes_wal": "WAL of Postgres",
    "bytes_heap": "history's heap",
    "bytes_index": "history's index",
}


def rendered(page: str, growth: Mapping[str, Any]) -> str:
    """The page with the blocks of these figures. Raises KeyError for a block that does not exist."""
    return blocks.rendered(page, "growth.json", BLOCKS, growth)


def _machine(growth: Mapping[str, Any]) -> str:
    """What the figures were taken on."""
    return table(["", ""], [[name, text] for name, text in growth["about"].items()])


def _costs(growth: Mapping[str, Any]) -> str:
    """Each part, with one Redis and one partition, and with a cluster and many."""
    small, large = _small(growth), _large(growth)
    rows = [
        [text, _spread(small, f"us_{part}"), _spread(large, f"us_{part}")] for part, text in _PARTS.items()
    ]
    rows.append(["**all**", f"**{sum_us(small):.1f}**", f"**{sum_us(large):.1f}**"])
    rows.append(
        ["one producer sends, snapshots/s", *(_spread(each, "push_per_s") for each in (small, large))]
    )
    rows.append(
        ["one worker stores, snapshots/s", *(_spread(each, "drain_per_s") for each in (small, large))]
    )
    return table(["µs of processor time a snapshot", "one Redis, 1 partition", _name_of(large)], rows)


def _rates(growth: Mapping[str, Any]) -> str:
    """What a steady rate costs, and how long snapshots wait."""
    rows = []
    for each in line(growth, "rate", "p50_ms"):
        rate = each["setting"]["rate"]
        cores = sum_us(each, steady=True) * mid(each, "steady_per_s") / 1e6
        rows.append(
            [
                f"{rate:,}",
                _spread(each, "steady_per_s"),
                _spread(each, "p50_ms"),
                _spread(each, "p99_ms"),
                *(f"{mid(each, f'steady_us_{part}'):.0f}" for part in STEADY),
                f"{cores:.2f}",
            ]
        )
    heads = ["asked a second", "sent a second", "p50 ms", "p99 ms"]
    return table([*heads, *(f"{part} µs" for part in STEADY), "cores in all"], rows)


def _bytes(growth: Mapping[str, Any]) -> str:
    """Bytes a snapshot."""
    small, large = _small(growth), _large(growth)
    rows = [[text, *(f"{mid(each, name):,.0f}" for each in (small, large))] for name, text in _BYTES.items()]
    return table(["bytes a snapshot", "one Redis, 1 partition", _name_of(large)], rows)


def _limits(growth: Mapping[str, Any]) -> str:
    """How much a single one of each part can do."""
    small, large = _small(growth), _large(growth)
    rows = [
        [f"a {name}", *(f"{rounded(_limits_of(each)[name]):,}" for each in (small, large)), how]
        for name, how in _HOW.items()
    ]
    return table(["at the most, snapshots/s", "one Redis, 1 partition", _name_of(large), ""], rows)


def _limits_of(found: Found) -> dict[str, float]:
    """What a single one can do -> snapshots a second."""
    redis_us = sum(mid(found, f"us_{part}") for part in ("redis_admits", "redis_reads"))
    return {
        _ONE["producer"]: mid(found, "push_per_s"),
        _ONE["worker"]: mid(found, "drain_per_s"),
        _ONE["redis"]: 1e6 / redis_us,
        _ONE["postgres"]: 1e6 / mid(found, "us_postgres"),
    }


def _sizes(growth: Mapping[str, Any]) -> str:
    """What each size takes."""
    columns = [_size(growth, rate) for rate in SIZES]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return table(["snapshots a second", *(f"{rate:,}" for rate in SIZES)], rows)


def _size(growth: Mapping[str, Any], rate: int) -> dict[str, str]:
    """Name -> what it takes; the smallest size is one that is measured as it is."""
    measured = rate == SIZES[0]
    if measured:
        at = point(growth, rate=rate)
        us = {part: mid(at, f"steady_us_{part}") for part in STEADY}
        of_bytes = _small(growth)
    else:
        of_bytes = _large(growth)
        us = {part: mid(of_bytes, f"us_{part}") for part in RUSH if not part.startswith("redis")}
        us["redis"] = sum(mid(of_bytes, f"us_{part}") for part in RUSH if part.startswith("redis"))
    cores = {part: us[part] * rate / 1e6 for part in STEADY}
    size = {name: mid(of_bytes, f"bytes_{name}") for name in ("stream", "wal", "heap", "index")}
    network = sum(mid(of_bytes, name) for name in _BYTES if "_to_" in name or "_from_" in name)
    limits = _limits_of(of_bytes)
    used = {name: cores[part] if measured else rate / limits[name] for part, name in _ONE.items()}
    needed = {name: ceil(each / BUSY) for name, each in used.items()}
    return {
        "": "measured at this rate" if measured else "extrapolated from the cost of a snapshot",
        **{
            f"{part}: cores": f"{cores[part]:.2g}" if cores[part] < 10 else f"{cores[part]:.0f}"
            for part in STEADY
        },
        "a single one would be used to": ", ".join(f"{name} {each:.0%}" for name, each in used.items()),
        **{f"{name}: how many, used to {BUSY:.0%}": f"{count}" for name, count in needed.items()},
        **_of_many_traders(growth, rate, measured=measured),
        f"`RISK_STREAM_MAXLEN` for an outage of {OUTAGE_S // 60} min": f"{OUTAGE_S * rate:,}",
        "Redis' memory for it": f"{OUTAGE_S * rate * size['stream'] / _GIB:,.2g} GiB"
        if rate < 100_000
        else f"{OUTAGE_S * rate * size['stream'] / _GIB:,.0f} GiB",
        f"`RISK_BUFFER_SIZE` of each producer for a failover of {FAILOVER_S} s": (
            f"{rounded(FAILOVER_S * rate / needed[_ONE['producer']]):,}"
        ),
        "network in all": f"{network * rate / 1e6:,.1f} MB/s",
        "WAL": f"{size['wal'] * rate / 1e6:,.1f} MB/s",
        "history, heap and index": f"{(size['heap'] + size['index']) * rate * _DAY_S / 1e9:,.0f} GB a day",
    }


def _of_many_traders(growth: Mapping[str, Any], rate: int, *, measured: bool) -> dict[str, str]:
    """How many of each are needed where as many traders take turns as were measured at the most."""
    most = line(growth, "traders", "drain_per_s")[-1]
    limits = _limits_of(most)
    needed = []
    for part in ("worker", "redis", "postgres"):
        used = mid(most, f"steady_us_{part}") * rate / 1e6 if measured else rate / limits[_ONE[part]]
        needed.append(f"{ceil(used / BUSY)}")
    traders = most["setting"]["traders"]
    return {f"… of each where {traders:,} traders take turns: worker, Redis, Postgres": ", ".join(needed)}


def _curves(growth: Mapping[str, Any]) -> str:
    """Each factor by itself."""
    many = growth["many"]
    rows = []
    for factor, partitions in (
        ("workers", 1),
        ("workers", many),
        ("partitions", None),
        ("nodes", 1),
        ("nodes", many),
        ("traders", None),
    ):
        others = {"partitions": partitions} if partitions else {}
        for each in line(growth, factor, "drain_per_s", **others):
            where = f", {partitions} partition{'s' * (partitions > 1)}" if partitions else ""
            rows.append(
                [
                    f"{factor} {each['setting'][factor]:,}{where}",
                    _spread(each, "push_per_s"),
                    _spread(each, "drain_per_s"),
                    f"{sum_us(each):.1f}",
                    _spread(each, "p50_ms"),
                    _spread(each, "p99_ms"),
                ]
            )
    return table(["", "sent/s", "stored/s", "µs in all", "p50 ms", "p99 ms"], rows)


def _depths(growth: Mapping[str, Any]) -> str:
    """Batch size and history: the drain alone."""
    rows = [
        [
            f"{name} {each['setting'][factor]:,}",
            _spread(each, "drain_per_s"),
            *(_spread(each, f"us_{part}") for part in ("redis_reads", "worker", "postgres")),
            f"{mid(each, 'bytes_wal'):.0f}",
        ]
        for factor, name in (("batch_size", "batch size"), ("history", "history"))
        for each in line(growth, factor, "drain_per_s")
    ]
    return table(["", "stored/s", "Redis µs", "worker µs", "Postgres µs", "WAL bytes"], rows)


def _bends(growth: Mapping[str, Any]) -> str:
    """What Redis and Postgres do for a row at some points."""
    rows = [
        [
            name,
            *(
                f"{point[measure]:,.0f}" if scale else f"{point[measure]:.1f}"
                for measure, scale in _BENT.items()
            ),
        ]
        for name, point in growth["bends"].items()
    ]
    return table(["", *_BENT_HEADS], rows)


_BENT: Final = {
    "drain_per_s": True,
    "us_worker": False,
    "us_postgres": False,
    "postgres COPY": False,
    "postgres state": False,
    "postgres COMMIT": False,
    "commits/1000": False,
    "redis scripts": False,
    "redis reading": False,
    "scripts/1000": False,
    "bytes_wal": True,
}
"""Measure -> whether it is large."""
_BENT_HEADS: Final = (
    "stored/s",
    "worker µs",
    "Postgres µs",
    "COPY",
    "state",
    "COMMIT",
    "COMMITs of 1,000",
    "Redis' scripts µs",
    "reading",
    "scripts of 1,000",
    "WAL bytes",
)
BLOCKS: Final[Blocks] = {
    "machine": _machine,
    "costs": _costs,
    "rates": _rates,
    "bytes": _bytes,
    "limits": _limits,
    "sizes": _sizes,
    "curves": _curves,
    "depths": _depths,
    "bends": _bends,
}
"""Name of a block in the page -> what makes it."""


def _small(growth: Mapping[str, Any]) -> Found:
    """Where every curve begins."""
    return point(growth)


def _large(growth: Mapping[str, Any]) -> Found:
    """The largest cluster, with many partitions."""
    return line(growth, "nodes", "drain_per_s", partitions=growth["many"])[-1]


def _name_of(large: Found) -> str:
    setting = large["setting"]
    return f"cluster of {setting['nodes']} masters, {setting['partitions']} partitions"


def _spread(point: Found, measure: str) -> str:
    """Median, and the range of the runs."""
    return spread(point["measures"][measure])
