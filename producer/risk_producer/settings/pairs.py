"""Settings that are valid alone and make no sense together; the same pairs hold for arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, Literal

Role = Literal["trader", "worker"]
"""Which process reads the settings. Both may share one environment, and each uses only some of it."""
Values = Mapping[str, Any]
"""field -> value."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two fields, and when they contradict each other. It counts where at least one of them is given."""

    first: str
    second: str
    contradict: Callable[[Values], bool]
    reason: str
    """Why it makes no sense, and what to do; {first} and {second} stand for their names."""
    role: Role | None = None
    """The only kind of process that uses them; None: every kind may."""


def _no_spool(values: Values) -> bool:
    return values["spool_dir"] is None


def _other_namespaces(values: Values) -> bool:
    named = {each.strip() for each in values["namespaces"].split(",")} - {""}
    return bool(named and values["namespace"]) and named != {values["namespace"]}


def _no_postgres(values: Values) -> bool:
    return values["db_host"] is None and values["postgres_url"] is None


PAIRS: Final = (
    Pair(
        "spool_fsync",
        "spool_dir",
        lambda values: values["spool_fsync"] != "never" and _no_spool(values),
        "nothing is written to disk without a folder. Set {second}, or leave {first} out",
        "trader",
    ),
    Pair(
        "spool_max_bytes",
        "spool_dir",
        _no_spool,
        "there is no spool without a folder. Set {second}, or leave {first} out",
        "trader",
    ),
    Pair(
        "backoff_base_ms",
        "backoff_cap_ms",
        lambda values: values["backoff_base_ms"] > values["backoff_cap_ms"],
        "the first wait cannot exceed the longest one. Lower {first}, or raise {second}",
        "worker",
    ),
    Pair(
        "flush_interval_ms",
        "drain_timeout_s",
        lambda values: values["flush_interval_ms"] >= 1000 * values["drain_timeout_s"],
        "a stopping worker would leave before its next read. Lower {first}, or raise {second}",
        "worker",
    ),
    Pair(
        "namespace",
        "namespaces",
        _other_namespaces,
        "a process serves the one or the others. Give {first} to traders, and {second} to workers, exporter "
        "and commands",
    ),
    *(
        Pair(
            first,
            "db_host",
            _no_postgres,
            "Postgres is never asked without {second} or POSTGRES_URL. Set one of them, or leave {first} out",
        )
        for first in ("db_port", "db_user", "db_password", "db_name", "postgres_sslmode")
    ),
)


def contradictions(
    values: Values,
    given: AbstractSet[str],
    *,
    name: Callable[[str], str],
    secret: AbstractSet[str] = frozenset(),
) -> Iterator[tuple[Pair, str]]:
    """Each pair that makes no sense, and a message that names both.

    values: of some fields; pairs of others are not looked at. given: the fields that are not left to their
    defaults. name: of a field, as the user knows it. secret: the fields whose values are not shown.
    """

    def state(field: str) -> str:
        value = values[field]
        if value is None:
            return f"{name(field)} is not set"
        shown = f"{value:g}" if isinstance(value, float) else value
        return f"{name(field)} is {'set' if field in secret else shown}"

    for pair in PAIRS:
        if (
            values.keys() >= {pair.first, pair.second}
            and not given.isdisjoint((pair.first, pair.second))
            and pair.contradict(values)
        ):
            reason = pair.reason.format(first=name(pair.first), second=name(pair.second))
            yield pair, f"{state(pair.first)} and {state(pair.second)}: {reason}"
