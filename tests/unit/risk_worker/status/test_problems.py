"""Each fault has its line, and no other line with it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from risk_worker.status.model import (
    DeadLettersStatus,
    PostgresStatus,
    QueueStatus,
    RedisStatus,
    RestoredStatus,
    Status,
    TradersStatus,
)
from risk_worker.status.problems import FINDERS, is_well, problems
from tests.support.status import partitions, server, status, worker

POSTGRES = status().postgres
GONE = worker(state="gone", heard_s=2.0)
FROZEN = worker(state="silent", heard_s=31.0)
STALLED: dict[str, Any] = {"in_flight": 800, "oldest_s": 400.0, "stalled_s": 400.0}


def redis(**more: Any) -> RedisStatus:
    return RedisStatus("redis://127.0.0.1:6379/0", servers=(server(**more),))


def postgres(**more: Any) -> PostgresStatus:
    return replace(POSTGRES, **more)


FAULTS: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "nothing": ({}, set(), ""),
    "killed": (
        {"workers": (GONE,), "partitions": partitions(4, (), **{**STALLED, "in_flight": 10})},
        {"no_worker"},
        "No worker is running, and 40 snapshots wait: the process 4711 on node-7 has ended",
    ),
    "frozen": (
        {"workers": (FROZEN,), "partitions": partitions(4, ())},
        {"no_worker"},
        "the worker node-7 4711 has not been heard of for 31 s",
    ),
    "none": (
        {"workers": (), "partitions": partitions(4, (), in_flight=0)},
        {"no_worker"},
        "No worker is running",
    ),
    "one of two is frozen": (
        {"workers": (worker(), FROZEN)},
        {"worker_silent"},
        "has not been heard of for 31 s. The other workers have taken its share",
    ),
    "redis away": (
        {
            "redis": RedisStatus("redis://x", "Redis at x does not answer (refused). Look"),
            "workers": None,
            "queue": QueueStatus("redis://x", error="refused"),
            "partitions": None,
            "totals": None,
        },
        {"redis_away"},
        "Redis at x does not answer (refused)",
    ),
    "a node is away": (
        {
            "redis": RedisStatus(
                "r",
                servers=(
                    server(partitions=(0, 1)),
                    server(
                        address="h:2",
                        partitions=(2, 3),
                        away=True,
                        refusal="Redis at h:2 does not answer (x). Look",
                    ),
                ),
            ),
            "partitions": partitions(4, (worker(),), away=True, error="away"),
        },
        {"redis_away"},
        "Redis at h:2 does not answer (x); it has partitions 2, 3. "
        "No node of the Redis Cluster answers for partitions 0, 1.",
    ),
    "redis full": (
        {
            "redis": redis(
                refusal="Redis at x takes no writes, as it uses (OOM x). Raise it", memory_used=512 << 20
            ),
            "workers": (FROZEN,),
        },
        {"redis_refuses_writes"},
        "takes no writes",
    ),
    "redis nearly full": ({"redis": redis(memory_used=500 << 20)}, {"redis_nearly_full"}, "uses 98%"),
    "redis evicts": ({"redis": redis(eviction_policy="allkeys-lru")}, {"redis_evicts"}, "allkeys-lru"),
    "an eviction policy without a limit": (
        {"redis": redis(eviction_policy="allkeys-lru", memory_limit=None)},
        set(),
        "",
    ),
    "RQ's own redis away": (
        {"queue": QueueStatus("redis://rq", separate=True, error="refused"), "workers": None},
        {"queue_away"},
        "RQ's Redis redis://rq does not answer (refused)",
    ),
    "suspended": (
        {
            "queue": QueueStatus("redis://x", suspended=True),
            "partitions": partitions(4, (worker(),), **STALLED),
        },
        {"workers_suspended", "stream_nearly_full"},
        "suspended",
    ),
    "postgres away": (
        {
            "postgres": PostgresStatus("x", "refused (the server cannot be reached)"),
            "workers": (),
            "partitions": partitions(4, (), **{**STALLED, "in_flight": 10}),
        },
        {"postgres_away"},
        "Postgres cannot be used: refused",
    ),
    "postgres refuses": ({"postgres": PostgresStatus("x", "no", refused=True)}, {"postgres_refuses"}, "no"),
    "postgres read-only": (
        {"postgres": postgres(read_only="Postgres takes no writes: it is on. Turn it off")},
        {"postgres_read_only"},
        "takes no writes: it is on",
    ),
    "a table is missing": (
        {"postgres": postgres(missing_tables=("risk_state",))},
        {"tables_missing"},
        "the table risk_state,",
    ),
    "not migrated": (
        {"postgres": postgres(applied=0, pending=("1_a.sql", "2_b.sql"), missing_tables=("risk_state",))},
        {"migrations_pending"},
        "lacks 2 migrations",
    ),
    "rights revoked": (
        {"postgres": postgres(missing_grants=('GRANT INSERT ON "risk_state" TO "w"',))},
        {"grants_missing"},
        "may not do",
    ),
    "a reader's role": (
        {"postgres": postgres(only_reads=True)},
        {"role_only_reads"},
        "this connection only reads",
    ),
    "a reader's user": (
        {"redis": redis(refusal="Redis at x takes no writes, as the user may not do it (NOPERM). Give")},
        {"redis_not_tried"},
        "this user may not try it",
    ),
    "a newer database": ({"postgres": postgres(unknown=("2027",))}, {"postgres_newer"}, "2027"),
    "dead letters": (
        {"dead_letters": DeadLettersStatus(1, newest_s=12.0, newest_reason="not a snapshot")},
        {"dead_letters"},
        "1 dead letter waits",
    ),
    "another database": (
        {
            "other_database": "Redis' key k names the database a, and this database is b. Two need",
            "workers": (),
            "partitions": partitions(4, (), **{**STALLED, "in_flight": 10}),
        },
        {"other_database"},
        "names the database a",
    ),
    "unequal partitions": ({"partitions_here": 2}, {"partitions_differ"}, "RISK_PARTITIONS is 2 here"),
    "stalled": (
        {"partitions": partitions(4, (worker(),), **{**STALLED, "in_flight": 10})},
        {"partition_stalled"},
        "Partitions 0, 1, 2, 3 have not been drained for 6 min (40 snapshots wait)",
    ),
    "a key that is no stream": (
        {"partitions": partitions(4, (worker(),), error="Partition 0 cannot be drained: WRONGTYPE")},
        {"stream_unreadable"},
        "WRONGTYPE",
    ),
    "nearly full": (
        {"partitions": partitions(4, (worker(),), in_flight=850)},
        {"stream_nearly_full"},
        "holds 850 of 1,000 entries (85%), and those of 3 others",
    ),
    "full": ({"partitions": partitions(1, (worker(),), in_flight=1000)}, {"stream_full"}, "have to wait"),
    "a full disk": (
        {
            "workers": (
                worker(cannot_store="No space left on device (out of a resource)", commit_wait_s=90.0),
            ),
            "partitions": partitions(
                4,
                (worker(cannot_store="No space left on device"),),
                **{**STALLED, "in_flight": 10},
            ),
        },
        {"cannot_store"},
        "The worker node-7 4711 cannot store: No space left on device (out of a resource)",
    ),
    "a worker of two cannot store": (
        {
            "workers": (worker(0, 2), worker(1, 2, cannot_store="a trigger refuses")),
            "partitions": partitions(
                4,
                (worker(0, 2), worker(1, 2, cannot_store="a trigger refuses")),
                **{**STALLED, "in_flight": 10},
            ),
        },
        {"cannot_store", "partition_stalled"},
        "Partitions 0, 2 have not been drained for 6 min (20 snapshots wait)",
    ),
    "rights revoked, as a worker sees it too": (
        {
            "postgres": postgres(missing_grants=('GRANT INSERT ON "risk_state" TO "w"',)),
            "workers": (worker(cannot_store="permission denied", commit_wait_s=90.0),),
        },
        {"grants_missing"},
        "may not do",
    ),
    "a lock": (
        {
            "workers": (worker(commit_wait_s=90.0),),
            "partitions": partitions(4, (worker(commit_wait_s=90.0),), **{**STALLED, "in_flight": 10}),
        },
        {"commit_waits"},
        "for 90 s",
    ),
    "a commit waits": ({"workers": (worker(commit_wait_s=40.0),)}, {"commit_waits"}, "for 40 s"),
    "restored": (
        {"restored": RestoredStatus(12, 60.0)},
        {"redis_lost_data"},
        "restored 12 traders from Postgres",
    ),
    "restored long ago": ({"restored": RestoredStatus(12, 86_400.0)}, set(), ""),
    "behind": ({"behind": 2}, {"states_behind"}, "2 traders"),
    "empty": (
        {"partitions_agreed": None, "workers": ()},
        {"redis_empty"},
        "holds nothing of this deployment",
    ),
    "new": (
        {"partitions_agreed": None, "traders": TradersStatus(stored=0, paused=0, silent=0)},
        set(),
        "",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_line_and_no_other(name: str) -> None:
    changes, names, text = FAULTS[name]
    found = problems(status(**changes))
    assert {each.name for each in found} == names
    assert text in " ".join(f"{each.what}." for each in found)


def test_each_line_says_what_to_do() -> None:
    for changes, _, _ in FAULTS.values():
        for each in problems(status(**changes)):
            assert each.what or each.name
            assert each.todo, each


@pytest.mark.parametrize(
    ("name", "well"), [("nothing", True), ("unequal partitions", True), ("killed", False), ("full", False)]
)
def test_what_hinders_nothing_changes_no_exit_status(name: str, well: bool) -> None:
    assert is_well(status(**FAULTS[name][0])) is well


def test_every_finder_is_tested() -> None:
    """A finder that finds nothing in any of the faults is none."""
    for find in FINDERS:
        assert any(list(find(status(**changes))) for changes, _, _ in FAULTS.values()), find.__name__


def test_nothing_known_is_no_reason_to_fail() -> None:
    """Whatever is None."""
    bare = Status(
        at=status().at,
        namespace="",
        redis=RedisStatus("r"),
        queue=QueueStatus("r"),
        postgres=PostgresStatus("p"),
    )
    assert problems(bare) == []


def test_the_page_has_every_name() -> None:
    page = (Path(__file__).parents[4] / "docs" / "operate" / "status.md").read_text()
    named = {each for _, names, _ in FAULTS.values() for each in names}
    rows = " ".join(re.findall(r"^\| ([a-z_, ]+) \|", page, re.M))
    assert set(re.findall(r"[a-z]+(?:_[a-z]+)+", rows)) == named
