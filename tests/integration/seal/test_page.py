"""docs/audit.md: its commands, as they stand there, come to the digests that riskstream made."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from risk_devkit.embedded import program
from risk_worker.dead_letters.drop import drop
from risk_worker.dead_letters.select import DeadLetterFilter
from risk_worker.seal.expiry import expire
from risk_worker.seal.sealer import Sealer
from tests.integration.seal.conftest import HOUR, clocks_ahead, fill, seal
from tests.support.database import store_entries
from tests.support.factory import entry, payload

PAGE = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
SQL = (Path(__file__).parents[3] / "worker" / "risk_worker" / "seal" / "seal.sql").read_text()


def run(block: str, url: str, **words: object) -> str:
    environment = {
        "PATH": f"{Path(str(program('psql'))).parent}{os.pathsep}{os.environ['PATH']}",
        "POSTGRES_URL": url,
        "LC_ALL": "C.UTF-8",
        **{name: str(value) for name, value in words.items()},
    }
    done = subprocess.run(
        ["bash", "-ec", block], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_its_commands_come_to_the_same(database_url: str, zone: str) -> None:
    fill(database_url, ["b", "é"])
    seal(database_url)
    store_entries(
        database_url,
        entry(1, payload("é", 3, merged=1).replace(b'"drawdown_pct":', b'"drawdown_pct":[],"":')),
        entry(2, b"'\\xff"),
    )
    assert drop(database_url, DeadLetterFilter(), by="a@b") is not None
    leaf, leaves, drops, head, everything = BLOCKS
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(f"ALTER DATABASE {db.info.dbname} SET timezone = '{zone}'".encode())
        db.execute(f"ALTER DATABASE {db.info.dbname} SET datestyle = 'SQL, DMY'".encode())
        sealed = db.execute(
            "SELECT trader_id, epoch, to_char(day, 'YYYY-MM-DD'), encode(digest, 'hex')"
            " FROM risk_seal WHERE run = 2"
        ).fetchall()
        for trader, epoch, day, digest in sealed:
            assert run(leaf, database_url, RUN=2, TRADER=trader, EPOCH=epoch, DAY=day) == digest
        for number in (1, 2):
            [found] = db.execute(
                "SELECT encode(digest, 'hex'), encode(head, 'hex') FROM risk_seal_run WHERE number = %s",
                (number,),
            ).fetchall()
            assert (
                run(leaves, database_url, RUN=number),
                run(head, database_url, RUN=number),
            ) == found
        [(number, digest, entry_head)] = db.execute(
            "SELECT number, encode(digest, 'hex'), encode(head, 'hex') FROM risk_seal_run"
            " WHERE kind = 'dropped'"
        ).fetchall()
        assert run(drops, database_url, RUN=number) == digest
        assert run(head, database_url, RUN=number) == entry_head
        assert run(everything, database_url) == ""
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET reason = 'x' WHERE trader_id = 'é' AND seq = 30")
        assert run(everything, database_url).startswith("2|é|7|")


def test_all_rows_at_once_whatever_has_become_of_them(url: str) -> None:
    """Some have expired, the runs of a clock that ran ahead are undone, some came late."""
    fill(url, ["old"], late_s=10 * 86_400)
    seal(url)
    with psycopg.connect(url, autocommit=True) as db:
        with db.transaction():
            assert expire(db, datetime.now(UTC).date() - timedelta(days=5)) is not None
            db.execute("DELETE FROM risk_state_history WHERE trader_id = 'old'")
        with clocks_ahead(6) as now:
            fill(url, ["ahead"], now - 5 * HOUR)
            seal(url, now=now)
        with Sealer(url, HOUR) as sealer:
            assert sealer.reopen().entry is not None
        fill(url, ["late"], late_s=10 * 86_400)
        with db.transaction():
            db.execute("SET LOCAL session_replication_role = replica")
            db.execute("UPDATE risk_state_history SET stored_at = now() WHERE trader_id = 'late'")
        *_, everything = BLOCKS
        found = run(everything, url).splitlines()
        assert {line.split("|")[1] for line in found} <= {"late"}, "what is not sealed by a run that counts"
        with clocks_ahead(6) as now:
            seal(url, now=now)
        assert run(everything, url) == ""
        db.execute("SET session_replication_role = replica")
        for trader in ("ahead", "late", "é"):
            db.execute("DELETE FROM risk_state_history WHERE trader_id = %s AND seq = 30", (trader,))
        assert {line.split("|")[1] for line in run(everything, url).splitlines()} == {"ahead", "late", "é"}


def test_it_makes_the_digests_as_the_code_does() -> None:
    def records(text: str) -> set[str]:
        found = re.findall(r"record_send\(ROW\((.*?)\)\)(?=[,)]|, 'hex')", text, re.DOTALL)
        return {re.sub(r"\s+", " ", each.replace("'UTF8'", "%(encoding)s")).strip() for each in found}

    assert len(records(SQL)) == 4
    assert records(PAGE) == records(SQL)
