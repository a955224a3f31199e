"""What bends the curves of the growth: what Redis and Postgres do for a row, at two points of a curve each.

Redis counts the time of each command (INFO commandstats), and Postgres' log has that of each statement.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import POSTGRES, Servers
from benchmarks.trial import WARM_UP_ROWS, Setting, rush

LOGGED: Final = {**POSTGRES, "log_min_duration_statement": 0}
POINTS: Final = {
    "the beginning of each curve": Setting(),
    "100,000 traders": Setting(traders=100_000),
    "1 trader": Setting(traders=1),
    "batches of 100": Setting(batch_size=100),
    "16 partitions": Setting(partitions=16),
    "64 partitions": Setting(partitions=64),
}
COMMANDS: Final = {"evalsha": "scripts", "xrange": "reading", "xread": "reading"}
"""Of Redis; what is not named is one more."""
STATEMENTS: Final = {
    "COPY": re.compile(r"COPY risk_state_history"),
    "state": re.compile(r"INTO risk_state\b"),
    "COMMIT": re.compile(r"COMMIT"),
}
"""Of Postgres, by their text; the first that fits."""
_ENTRY: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)
_DURATION: Final = re.compile(r"duration: ([\d.]+) ms  (?:statement|(?:parse|bind|execute) [^:]*): ")


def measure(
    servers: Servers,
    rows: int,
    say: Callable[[str], None],
    points: Mapping[str, Setting] = POINTS,
) -> dict[str, dict[str, float]]:
    """Point -> what a row costs there, in microseconds; and how many there are of some things."""
    found = {}
    for name, setting in points.items():
        log = servers.postgres.log_file
        servers.redis.config_resetstat()
        start = log.stat().st_size
        measured = rush(servers, setting, rows)
        count = rows + max(setting.traders, WARM_UP_ROWS)
        point = {each: measured[each] for each in ("drain_per_s", "us_worker", "us_postgres", "bytes_wal")}
        point |= commands(servers.redis.info("commandstats"), count)
        point |= statements(_since(log, start), count)
        found[name] = point
        say(f"{name}: {', '.join(f'{each} {value:,.3g}' for each, value in point.items())}")
    return found


def commands(stats: Mapping[str, Mapping[str, Any]], rows: int) -> dict[str, float]:
    """What Redis' commands cost a row, and how many scripts there are of a thousand rows."""
    us: dict[str, float] = defaultdict(float)
    for name, each in stats.items():
        us[COMMANDS.get(name.removeprefix("cmdstat_"), "others")] += each["usec"] / rows
    scripts = stats.get("cmdstat_evalsha", {"calls": 0})["calls"] / rows * 1000
    return {f"redis {name}": value for name, value in sorted(us.items())} | {"scripts/1000": scripts}


def statements(log: str, rows: int) -> dict[str, float]:
    """What Postgres' statements take a row, and how many COMMITs there are of a thousand rows."""
    us: dict[str, float] = dict.fromkeys(STATEMENTS, 0.0)
    commits = 0
    for entry in _ENTRY.split(log):
        duration = _DURATION.search(entry)
        for name, pattern in STATEMENTS.items():
            if duration and pattern.search(entry, duration.end()):
                us[name] += float(duration[1]) * 1000 / rows
                commits += name == "COMMIT"
                break
    return {f"postgres {name}": value for name, value in us.items()} | {"commits/1000": commits / rows * 1000}


def _since(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
