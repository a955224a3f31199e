"""docs/audit.md: its commands, as they stand there, come to the digests that riskstream made."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from risk_devkit.embedded import program
from tests.integration.seal.conftest import fill, seal

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
    leaf, leaves, head, everything = BLOCKS
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
        assert run(everything, database_url) == ""
        db.execute("SET session_replication_role = replica")
        db.execute("UPDATE risk_state_history SET reason = 'x' WHERE trader_id = 'é' AND seq = 30")
        assert run(everything, database_url).startswith("2|é|7|")


def test_it_makes_the_digests_as_the_code_does() -> None:
    def records(text: str) -> set[str]:
        found = re.findall(r"record_send\(ROW\((.*?)\)\)(?=[,)]|, 'hex')", text, re.DOTALL)
        return {re.sub(r"\s+", " ", each.replace("'UTF8'", "%(encoding)s")).strip() for each in found}

    assert len(records(SQL)) == 3
    assert records(PAGE) == records(SQL)
