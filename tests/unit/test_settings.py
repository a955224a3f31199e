"""A variable that is almost a setting is named by the commands; one that is not like any is let alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from risk_producer.settings import CONFIG_FILE, Settings, misspelt
from risk_worker.cli import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RISK_BATCHSIZE", "RISK_BATCH_SIZE"),
        ("RISK_PARTITION", "RISK_PARTITIONS"),
        ("RISK_CONF", "RISK_CONFIG"),
        ("REDIS_URI", "REDIS_URL"),
        ("DB_PASWORD", "DB_PASSWORD"),
    ],
)
def test_a_slip_is_noticed(name: str, meant: str) -> None:
    assert misspelt({name: "4"}) == {name: meant}


def test_other_names_are_let_alone() -> None:
    settings = {CONFIG_FILE, *(meta["env"] for meta in Settings.declared().values())}
    files = ("docker-compose.yml", ".env.example", "CONTRIBUTING.md", "docs/reliability.md")
    ours = set(
        re.findall(r"\b(?:RISK|REDIS|DB)_[A-Z_]*[A-Z]", " ".join((ROOT / f).read_text() for f in files))
    )
    assert ours > {"RISK_TEST_KILLS", "RISK_TEST_RESTARTS", "REDIS_MAXMEMORY", "REDIS_PASSWORD", "REDIS_PORT"}
    others = {"REDIS_HOST", "REDIS_DB", "DB_URL", "RISK_LIMITS", "PATH"}
    assert misspelt(dict.fromkeys(ours | settings | others, "1")) == {}


def test_a_command_says_it_in_one_line() -> None:
    done = CliRunner().invoke(cli, ["config"], env={"RISK_BATCHSIZE": "4"})
    assert done.exit_code == 0
    assert done.stderr == "riskstream: RISK_BATCHSIZE is no setting; do you mean RISK_BATCH_SIZE?\n"
    assert "RISK_BATCH_SIZE=5000" in done.stdout
