"""docs/operations.md, troubleshooting.md: their commands run as they stand there, on a system that goes on.

A backup that was not restored is none: the blocks are run one after the other, and what they leave is
compared.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from benchmarks.sizes import measure
from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.database import grants, migrations
from risk_worker.timescale.enable import enable
from tests.integration.seal.conftest import seal
from tests.support.database import rows
from tests.support.debian import POSTGRES
from tests.support.history import DAY, TODAY, fill
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

    def _is_quiet(self) -> bool:
        return True  # no alert is waited for here

    def prepare(self) -> None:
        self.folder.mkdir()
        grants.apply(self.postgres.url)
        with self.administrator() as db:
            db.execute(f"GRANT risk_writer TO {ROLE}".encode())
            db.execute(SEALED.encode(), {"begin": datetime.now(UTC) - timedelta(hours=5)})
            db.execute(STATE.encode())
        assert seal(self.postgres.url)

    def as_(self, role: str, database: str = "risk") -> str:
        return with_name(self.postgres.url, database).replace("postgres@", f"{role}@")

    @property
    def url(self) -> str:
        """Of the database that workers store into, for a person who is a superuser."""
        return self.as_("postgres", self.environ["POSTGRES_URL"].rpartition("/")[2])

    def done(self, block: str, **more: str) -> subprocess.CompletedProcess[str]:
        """What a block does for that person."""
        more = {"RQ_REDIS_URL": self.redis.url, "POSTGRES_URL": self.url, **more}
        return run(block, {**self.environ, **more}, self.folder)

    def answer(self, command: str) -> tuple[int, str]:
        """(exit status, what it prints) of a single command; those of riskstream in this process, quickly."""
        program, *words = shlex.split(command)
        if program != "riskstream":
            done = self.done(command)
            return done.returncode, done.stdout + done.stderr
        runner = CliRunner(env={**self.environ, "POSTGRES_URL": self.url, "RISK_RETAIN_FOR": "30d"})
        result = runner.invoke(cli, words)
        return result.exit_code, f"{result.output}{result.exception or ''}"

    def succeeds(self, block: str, **more: str) -> str:
        done = self.done(block, **more)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def store_into(self, database: str) -> None:
        """Workers start with it from now on."""
        self.environ |= {"POSTGRES_URL": self.as_(ROLE, database), "RISK_MIGRATE": "never"}
        with psycopg.connect(self.as_("postgres", database), autocommit=True) as db:
            db.execute(f"GRANT risk_writer TO {ROLE}".encode())

    def stored(self) -> int:
        with psycopg.connect(self.url) as db:
            [(count,)] = db.execute("SELECT count(*) FROM risk_state_history").fetchall()
        return int(count)

    def until_more_is_stored(self) -> None:
        before = self.stored()
        wait_until(lambda: self.stored() > before + 20, 20, "20 rows more")

    def until_restored(self) -> None:
        """Both partitions were compared with Postgres, after Redis had lost data, and that is forgotten."""
        with self.connect() as client:
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


def commands() -> list[str]:
    """Single ones of both pages, without those that are no whole command, or never end."""
    named = [cells[1].strip("`") for cells in TROUBLESHOOTING.rows if len(cells) == 4]
    named += TROUBLESHOOTING.blocks("To look at the data")[0].splitlines()
    for page in (OPERATIONS, TROUBLESHOOTING):
        named += [line for line in page.lines if line.startswith("riskstream ")]
    for cells in TROUBLESHOOTING.rows:
        named += re.findall(r"`((?:redis-cli|riskstream) [^`…]+)`", cells[-1])
    without_end = {"riskstream worker", "riskstream tail TRADER", "riskstream status --watch"}
    not_whole = {"riskstream verify accept", "riskstream dead drop STREAM ENTRY_ID"}
    return sorted(set(named) - without_end - not_whole)


WITHOUT_TIMESCALE = {"riskstream timescale policies"}


def test_single_commands_of_the_pages_run(system: Operated) -> None:
    """Exit status 1: it was carried out, and its answer is not good."""
    system.until_well()
    assert len(commands()) > 35
    failed = {}
    for command in commands():
        status, text = system.answer(command.replace("TRADER", "trader-1"))
        expected = 2 if command in WITHOUT_TIMESCALE else 0
        if status not in (0, 1, expected) or "Traceback" in text:
            failed[command] = f"{status}\n{text}"
    assert system.answer(f"riskstream partitions {PARTITIONS}")[0] == 0, "as for the other tests"
    assert failed == {}


def identities(url: str) -> set[tuple[Any, ...]]:
    with psycopg.connect(url) as db:
        return set(rows(db, "SELECT trader_id, epoch, seq FROM risk_state_history"))


def test_what_was_backed_up_is_restored(system: Operated) -> None:
    """What verify names as lost is what was stored after the dump, and nothing else."""
    system.until_well()
    [backup] = OPERATIONS.blocks("Back up")
    assert system.succeeds(backup) == "1\n"
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
    assert found["lost"] == len(lost), found
    assert found["duplicates"] == 0
    assert not lost & identities(system.as_("postgres", "restored"))


def test_a_hypertable_is_restored(timescale_url: str, tmp_path: Path) -> None:
    """Chunks, what is compressed, continuous aggregates and policies are as they were."""
    migrations.up(timescale_url)
    assert list(enable(timescale_url, Settings()))
    fill(timescale_url, ["a", "b"], TODAY - 40 * DAY, 8, stored_at=datetime.now(UTC) - timedelta(hours=4))
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
        before = kept(db)
    assert seal(timescale_url)
    name = f"{timescale_url.rpartition('/')[2]}_restored"
    restored = with_name(timescale_url, name)
    environ = {"POSTGRES_URL": timescale_url, "RESTORED_URL": restored}
    [backup] = OPERATIONS.blocks("Back up")
    block, _, of_timescale = OPERATIONS.blocks("Postgres")
    _, plain, *after = block.splitlines(keepends=True)
    assert plain.startswith("pg_restore ")
    create = f'psql "$POSTGRES_URL" -c "CREATE DATABASE {name}"\n'
    try:
        done = run(backup + create + of_timescale + "".join(after), environ, tmp_path, POSTGRES)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        with psycopg.connect(restored, autocommit=True) as db:
            assert kept(db) == before
    finally:
        run(f'psql "$POSTGRES_URL" -c "DROP DATABASE IF EXISTS {name} WITH (FORCE)"', environ, tmp_path)


def kept(db: psycopg.Connection) -> list[Any]:
    """What there is of history, however it is kept; in no order."""
    found = [
        rows(
            db, "SELECT trader_id, recorded_at, epoch, seq, current_equity, stored_at FROM risk_state_history"
        ),
        rows(
            db,
            "SELECT chunk_name, is_compressed FROM timescaledb_information.chunks"
            " WHERE hypertable_name = 'risk_state_history'",
        ),
        rows(
            db, "SELECT proc_name, schedule_interval FROM timescaledb_information.jobs WHERE job_id >= 1000"
        ),
        rows(db, "SELECT trader_id, bucket, close, snapshots FROM risk_daily"),
    ]
    return [sorted(each) for each in found]


def test_redis_that_came_back_empty_is_filled(system: Operated) -> None:
    system.until_well()
    before = system.verified()
    with system.connect() as client:
        client.flushall()
    system.until(lambda: system.problems() == {"redis_lost_data"}, "the one problem")
    status, verify = OPERATIONS.blocks("Redis")[0].splitlines()
    shown = system.done(status)
    assert shown.returncode == 1
    assert "came back without its data" in shown.stdout
    assert system.done(verify).returncode in (0, 1)
    system.until_restored()
    system.until_well()
    system.until_more_is_stored()
    assert system.verified()["lost"] <= before["lost"] + 100, "what was on its way"


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
    with system.connect() as client:
        assert client.exists(Keys(0).counters), "it has read the file"
    done = system.done(afterwards)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith("OK\n")
    with system.connect() as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    system.until_restored()
    system.until_well()
    system.until_more_is_stored()
    assert system.verified()["duplicates"] == 0


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


def test_the_sizes_are_what_is_measured() -> None:
    """With fewer rows, whose index is not as full: within a quarter."""
    table = OPERATIONS.text.partition("<!-- sizes -->")[2].partition("<!-- end -->")[0]
    shown = {
        cells[0]: float(cells[1].replace(",", "")) for cells in Page.cells(table) if cells[1][0].isdigit()
    }
    found = measure(20_000, 2_000)
    assert len(found.keys() & shown.keys()) == len(found)
    for what, size in found.items():
        assert shown[what] == pytest.approx(size, rel=0.25), what
