"""docs/operations.md and troubleshooting.md: their commands run as they stand there, on a system that goes on.

A backup that was not restored is none: the blocks are run one after the other, and what they leave is
compared.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks.sizes import measure
from risk_producer.contract.keys import Keys
from risk_worker.database import grants
from tests.integration.seal.conftest import seal
from tests.support.database import rows
from tests.support.page import Page, run
from tests.support.running import PARTITIONS, ROLE, RunningSystem
from tests.support.servers import server_folder, with_name
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

OPERATIONS = Page("operations.md")
TROUBLESHOOTING = Page("troubleshooting.md")
_COLUMNS = (
    "trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity, "
    "trading_paused, last_reset_time"
)
SEALED = f"""
    INSERT INTO risk_state_history ({_COLUMNS}, stored_at)
    SELECT 'sealed', 1, n, at, n, 0, n, n, false, at, at
    FROM generate_series(1, 30) AS n,
    LATERAL (SELECT %(begin)s::timestamptz + n * interval '1 min' AS at) AS made
"""
STATE = f"""
    INSERT INTO risk_state ({_COLUMNS})
    SELECT {_COLUMNS} FROM risk_state_history WHERE trader_id = 'sealed' ORDER BY seq DESC LIMIT 1
"""


class Operated(RunningSystem):
    """With the roles of docs/operate/postgres-roles.md, sealed rows, and a person who runs commands."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder / "home"

    def prepare(self) -> None:
        self.folder.mkdir()
        grants.apply(self.postgres.url)
        with self.administrator() as db:
            db.execute(f"GRANT risk_writer TO {ROLE}".encode())
            db.execute("CREATE ROLE reader LOGIN IN ROLE risk_reader")
            db.execute(SEALED.encode(), {"begin": datetime.now(UTC) - timedelta(hours=5)})
            db.execute(STATE.encode())
        assert seal(self.postgres.url)

    def as_(self, role: str, database: str = "risk") -> str:
        return with_name(self.postgres.url, database).replace("postgres@", f"{role}@")

    def done(self, block: str, role: str = "postgres", **more: str) -> subprocess.CompletedProcess[str]:
        """What a block does, as a role of Postgres."""
        database = self.environ["POSTGRES_URL"].rpartition("/")[2]
        environ = {
            **self.environ,
            "RQ_REDIS_URL": self.redis.url,
            "POSTGRES_URL": self.as_(role, database),
            **more,
        }
        return run(block, environ, self.folder)

    def succeeds(self, block: str, role: str = "postgres", **more: str) -> str:
        done = self.done(block, role, **more)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def store_into(self, database: str) -> None:
        """Workers start with it from now on."""
        self.environ |= {"POSTGRES_URL": self.as_(ROLE, database), "RISK_MIGRATE": "never"}
        with psycopg.connect(self.as_("postgres", database), autocommit=True) as db:
            db.execute(f"GRANT risk_writer TO {ROLE}".encode())

    def stored(self) -> int:
        with psycopg.connect(self.as_("postgres", self.environ["POSTGRES_URL"].rpartition("/")[2])) as db:
            [(count,)] = db.execute("SELECT count(*) FROM risk_state_history").fetchall()
        return int(count)

    def until_more_is_stored(self) -> None:
        before = self.stored()
        wait_until(lambda: self.stored() > before + 20, 20, "20 rows more")

    def until_restored(self) -> None:
        """Both partitions were compared with Postgres, after Redis had lost data, and that is forgotten."""
        with self.client() as client:
            keys = [Keys(partition) for partition in range(PARTITIONS)]
            run_id = str(client.info("server")["run_id"]).encode()
            wait_until(lambda: all(client.hget(of.floors, "") == run_id for of in keys), 30, "both compared")
            for of in keys:
                client.hdel(of.counters, "restored_ms")

    def verified(self) -> dict[str, Any]:
        """What `riskstream verify` finds."""
        done = self.done("riskstream verify --json || test $? = 1")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def system() -> Iterator[Operated]:
    with server_folder() as folder, Operated(folder) as running:
        running.prepare()
        running.until_well()
        yield running


def identities(url: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(url) as db:
        return set(rows(db, "SELECT trader_id, epoch, seq FROM risk_state_history"))


def test_what_was_backed_up_is_restored(system: Operated) -> None:
    """What verify names as lost is what was stored after the dump, and nothing else."""
    system.until_well()
    [backup] = OPERATIONS.blocks("Back up")
    assert system.succeeds(backup, "reader") == "1\n"
    assert (system.folder / "heads.txt").read_text().count("\n") == 1
    system.until_more_is_stored()
    assert system.worker.stop() == 0
    old = identities(system.as_("postgres"))
    restore, look, _ = OPERATIONS.blocks("Postgres")
    said = system.succeeds(restore, RESTORED_URL=system.as_("postgres", "restored"))
    assert "1 run" in said or "sealed" in said, said
    lost = old - identities(system.as_("postgres", "restored"))
    assert len(lost) >= 20
    system.store_into("restored")
    system.start_worker()
    system.until_well()
    system.until_more_is_stored()
    assert "riskstream verify" in look
    found = system.verified()
    assert found["total"]["lost"] == len(lost), found
    assert found["total"]["duplicates"] == 0
    assert not lost & identities(system.as_("postgres", "restored"))


def test_redis_that_came_back_empty_is_filled(system: Operated) -> None:
    system.until_well()
    before = system.verified()["total"]
    with system.client() as client:
        client.flushall()
    system.until({"redis_lost_data"})
    status, verify = OPERATIONS.blocks("Redis")[0].splitlines()
    shown = system.done(status)
    assert shown.returncode == 1
    assert "came back without its data" in shown.stdout
    assert system.done(verify).returncode in (0, 1)
    system.until_restored()
    system.until_well()
    system.until_more_is_stored()
    assert system.verified()["total"]["lost"] <= before["lost"] + 100, "what was on its way"


def test_redis_moves_with_its_file(system: Operated) -> None:
    """The copy is older than what was stored since: it is delivered again, and stored once."""
    system.until_well()
    _, copy, afterwards = OPERATIONS.blocks("Redis")
    system.succeeds(copy)
    system.until_more_is_stored()
    system.redis.stop()
    data = system.redis.folder / "data"
    shutil.rmtree(data)
    data.mkdir()
    shutil.copy(system.folder / "redis.rdb", data / "dump.rdb")
    system.redis.config["appendonly"] = False
    system.redis.start()
    del system.redis.config["appendonly"]
    with system.client() as client:
        assert client.exists(Keys(0).counters), "it has read the file"
    done = system.done(afterwards)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith("OK\n")
    with system.client() as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    system.until_restored()
    system.until_well()
    system.until_more_is_stored()
    assert system.verified()["total"]["duplicates"] == 0


def test_streams_are_given_to_another_database(system: Operated) -> None:
    system.until_well()
    assert system.worker.stop() == 0
    with psycopg.connect(system.postgres.url, autocommit=True) as db:
        db.execute("CREATE DATABASE other")
    [block] = OPERATIONS.blocks("Redis and Postgres are not of one deployment")
    migrate, rebind = block.splitlines()
    other = {"POSTGRES_URL": system.as_("postgres", "other")}
    system.succeeds(migrate, **other)
    assert system.problems(**other) == {"other_database"}
    system.succeeds(rebind, **other)
    grants.apply(other["POSTGRES_URL"])
    system.store_into("other")
    system.start_worker()
    system.until_restored()
    system.until_well()
    assert system.stored() > 0


def test_an_upgrade_of_the_same_version_changes_nothing(system: Operated) -> None:
    system.until_well()
    [block] = OPERATIONS.blocks("Upgrade")
    verify, *migrate = block.splitlines()
    assert system.done(verify).returncode in (0, 1)
    said = system.succeeds("\n".join(migrate))
    assert "Nothing to apply" in said
    system.until_well()


def commands() -> list[str]:
    """Single ones of both pages, without those that are no whole command, or never end."""
    named = [cells[1].strip("`") for cells in TROUBLESHOOTING.rows if len(cells) == 4]
    named += TROUBLESHOOTING.blocks("To look at the data")[0].splitlines()
    for page in (OPERATIONS, TROUBLESHOOTING):
        named += [line for line in page.lines if line.startswith("riskstream ")]
    for cells in TROUBLESHOOTING.rows:
        named += re.findall(r"`((?:redis-cli|riskstream) [^`…]+)`", cells[-1])
    return sorted(set(named) - {"riskstream worker", "riskstream verify accept", "riskstream seal reopen"})


WITHOUT_TIMESCALE = {"riskstream timescale policies"}


def test_single_commands_of_the_pages_run(system: Operated) -> None:
    """Exit status 1: it was carried out, and its answer is not good."""
    system.until_well()
    assert len(commands()) > 35
    failed = {}
    for command in commands():
        done = system.done(command.replace("TRADER", "trader-1"), RISK_RETAIN_FOR="30d")
        expected = 2 if command in WITHOUT_TIMESCALE else 0
        if done.returncode not in (0, 1, expected) or "Traceback" in done.stderr:
            failed[command] = f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert failed == {}
    system.until_well()


def test_the_sizes_are_what_is_measured() -> None:
    """With fewer rows: within a tenth, for what a page that is not full yet takes."""
    table = OPERATIONS.text.partition("<!-- sizes -->")[2].partition("<!-- end -->")[0]
    shown = {
        cells[0]: float(cells[1].replace(",", "")) for cells in Page.cells(table) if cells[1][0].isdigit()
    }
    found = measure(20_000, 2_000)
    assert len(found.keys() & shown.keys()) == len(found)
    for what, size in found.items():
        assert shown[what] == pytest.approx(size, rel=0.1), what
