"""Desks that share a Redis and a database, served by one worker process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from risk_producer.contract.keys import Keys, partition_of
from risk_worker.monitor.exporter import Exporter, Sources
from tests.support.database import rows
from tests.support.desks import Desks
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

PARTITIONS = 2


def test_one_worker_serves_two_desks_and_neither_can_hold_up_the_other(
    environ: dict[str, str], client: Any, db: psycopg.Connection, tmp_path: Path
) -> None:
    desks = Desks(environ, "desk1", "desk2", partitions=PARTITIONS)

    def stored() -> dict[str, int]:
        return dict(rows(db, "SELECT reason, count(*) FROM risk_state_history GROUP BY 1"))

    desks.push("desk1", "a", "b", count=5)  # before there is a worker
    with ChildProcess(tmp_path / "worker.log", desks.environ) as worker:
        desks.push("desk2", "c", "d", count=5)
        wait_until(lambda: stored() == {"desk1": 10, "desk2": 10}, 30, "both are stored")
        desks.push("desk2", "a")
        wait_until(lambda: rows(db, "SELECT count(*) FROM risk_dead_letter") == [(1,)], 20, "refused")
        assert rows(db, "SELECT trader_id, reason, namespace FROM risk_state ORDER BY 1") == [
            *((trader, "desk1", "desk1") for trader in ("a", "b")),
            *((trader, "desk2", "desk2") for trader in ("c", "d")),
        ]
        # A stream of one desk that cannot be read, and one that is full: the other one goes on.
        spoilt = Keys(partition_of("a", PARTITIONS), "desk1").snapshots
        client.set(spoilt, "x")
        desks.push("desk2", "c", "d", count=5)
        wait_until(lambda: stored() == {"desk1": 10, "desk2": 20}, 20, "the other desk goes on")
        wait_until(lambda: "cannot store partition desk1/" in worker.log, 20, "the log names the partition")

        def status() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(desks.run("status", "--json").output)
            return found

        found = status()
        assert found["namespace"] == "desk1+desk2"
        assert [each["name"] for each in found["partitions"]] == ["desk1/0", "desk1/1", "desk2/0", "desk2/1"]
        assert any(spoilt in each["what"] for each in found["problems"])
        client.delete(spoilt)
        desks.push("desk1", "a", "b")
        wait_until(lambda: stored() == {"desk1": 12, "desk2": 20}, 20, "the first one goes on")
        wait_until(
            lambda: {each["name"] for each in status()["problems"]} == {"dead_letters"}, 30, "nothing else"
        )

        exporter = Exporter(client, sources=Sources(PARTITIONS, desks.keyspace))
        assert exporter.readiness.problems() == []
        page = exporter.page().text()
        for name, count in (("desk1", 12), ("desk2", 21)):
            lines = [line for line in page.splitlines() if f'accepted_total{{partition="{name}/' in line]
            assert sum(int(line.split()[-1]) for line in lines) == count
        assert 'risk_persistence_failures_total{trader_id="a",namespace="desk2",backend="postgres"} 1' in page
        assert 'risk_persistence_failures_total{trader_id="a",namespace="desk1"' not in page
        reconciled = desks.verify()
        assert reconciled["reconciled"], reconciled["problems"]
        assert (reconciled["accepted"], reconciled["stored"], reconciled["dead"]) == (32, 32, 1)
        assert worker.stop() == 0
    assert {key.split(b":risk:")[0].split(b":rq:")[0] for key in client.scan_iter() if b"rq" not in key} == {
        b"desk1",
        b"desk2",
        b"{desk1:desk2}",
    }


@pytest.mark.system
def test_a_namespace_that_names_another_database_is_left_out_and_hinders_no_start(
    environ: dict[str, str], client: Any, db: psycopg.Connection, tmp_path: Path
) -> None:
    """A trader's user may write that key while it is empty: it can shut out its own desk alone."""
    desks = Desks(environ, "desk1", "desk2", partitions=PARTITIONS)
    forged = [Keys(number, "desk1").database for number in range(PARTITIONS)]
    client.mset(dict.fromkeys(forged, str(uuid4())))
    desks.push("desk1", "a", "b")
    with ChildProcess(tmp_path / "worker.log", desks.environ) as worker:
        desks.push("desk2", "c")
        wait_until(lambda: rows(db, "SELECT trader_id FROM risk_state ORDER BY 1") == [("c",)], 30, "stored")
        assert f"that are another database's: Redis' key {forged[0]} names the database" in worker.log
        assert desks.run("rebind", "--yes").exit_code == 0
        wait_until(lambda: rows(db, "SELECT count(*) FROM risk_state") == [(3,)], 30, "the other one too")


def test_while_a_desk_is_added_workers_of_both_lists_drain_and_each_snapshot_is_stored_once(
    environ: dict[str, str], client: Any, db: psycopg.Connection, tmp_path: Path
) -> None:
    """They have different queues, so they share nothing and wait for nothing; what both store is a no-op."""
    old = Desks(environ, "desk1", "desk3", partitions=PARTITIONS)
    new = Desks(
        environ, "desk3", "desk2", "desk1", partitions=PARTITIONS
    )  # between them, and in another order
    traders, count = [f"t{number}" for number in range(8)], 40

    def push(name: str) -> None:
        new.push(name, *(f"{name}-{trader}" for trader in traders), count=count)

    def stored() -> dict[str, int]:
        return dict(rows(db, "SELECT reason, count(*) FROM risk_state_history GROUP BY 1"))

    def is_well(desks: Desks) -> bool:
        return bool(json.loads(desks.run("status", "--json").output)["problems"] == [])

    names, of_each = ("desk1", "desk2", "desk3"), len(traders) * count
    with (
        ChildProcess(tmp_path / "old.log", old.environ) as before,
        ChildProcess(tmp_path / "new.log", new.environ) as after,
        ThreadPoolExecutor(len(names)) as pool,
    ):
        for desks in (old, new):
            wait_until(partial(is_well, desks), 30, "it has a worker, by either list")
        list(pool.map(push, names))
        wait_until(lambda: stored() == dict.fromkeys(names, of_each), 30, "all are stored")
        for desks in (old, new):
            wait_until(partial(is_well, desks), 30, "nothing is wrong, by either list")
        assert before.stop() == 0
        list(pool.map(push, names))
        wait_until(lambda: stored() == dict.fromkeys(names, 2 * of_each), 30, "the new ones drain all")
        found = new.verify()
        assert found["reconciled"], found["problems"]
        assert (found["accepted"], found["stored"], found["dead"]) == (6 * of_each, 6 * of_each, 0)
        for process in (before, after):
            assert "CRITICAL" not in process.log and "ERROR" not in process.log
