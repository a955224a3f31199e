"""Every query of Grafana's dashboards, run against the Prometheus and the Postgres of a running system."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from risk_worker.database import grants
from tests.support.running import ROLE, RunningSystem
from tests.support.servers import server_folder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

OPS = Path(__file__).parents[2] / "ops"
BOARDS = {path.stem: json.loads(path.read_text()) for path in (OPS / "grafana/dashboards").glob("*.json")}
QUERIES = [
    (name, panel["title"], target)
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", ())
]
MACROS = {
    r"\$__rate_interval": "30s",
    r"\$__interval": "10s",
    r"\$\{trader:sqlstring\}": "'alice'",
    r"\$__timeFilter\((\w+)\)": r"\1 BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'",
    r"\$__timeGroup\((\w+), (\d+)s\)": r"floor(extract(epoch from \1) / \2) * \2",
}
"""As Grafana expands them."""


def expanded(text: str) -> str:
    for pattern, value in MACROS.items():
        text = re.sub(pattern, value, text)
    assert "$" not in text, f"no macro that is known here: {text}"
    return text


@pytest.fixture(scope="module")
def system() -> Iterator[RunningSystem]:
    with server_folder() as folder, RunningSystem(folder) as running:
        yield running


@pytest.mark.parametrize(
    ("board", "title", "target"),
    [each for each in QUERIES if "expr" in each[2]],
    ids=lambda each: each if isinstance(each, str) else each["refId"],
)
def test_a_query_of_a_dashboard_has_an_answer(
    system: RunningSystem, board: str, title: str, target: dict[str, Any]
) -> None:
    found = wait_until(lambda: system.prometheus.query(expanded(target["expr"])), 40, target["expr"])
    for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(name in each["metric"] for each in found), name


@pytest.fixture(scope="module")
def reader(system: RunningSystem) -> Iterator[psycopg.Connection]:
    """As Grafana connects, by the roles of docker-compose.yml; alice has paused a while ago."""
    with system.traders.sending(trading_paused=True, reason="limit"):
        paused = "SELECT count(*) FROM risk_state_history WHERE trading_paused"
        with psycopg.connect(system.postgres.url, autocommit=True) as db:
            wait_until(lambda: db.execute(paused).fetchone() != (0,), 20, "a pause")
    grants.apply(system.postgres.url)
    with psycopg.connect(system.postgres.url, autocommit=True) as db:
        db.execute(f"GRANT risk_owner TO {ROLE}".encode())  # the tables are not the worker's any more
        db.execute("CREATE ROLE risk_monitor LOGIN PASSWORD 'geheim' IN ROLE risk_reader")
        db.execute("ALTER ROLE risk_monitor SET default_transaction_read_only = on")
    with psycopg.connect(
        system.postgres.url, user="risk_monitor", password="geheim", autocommit=True
    ) as made:
        yield made


@pytest.mark.parametrize(
    ("board", "title", "target"),
    [each for each in QUERIES if "rawSql" in each[2]],
    ids=lambda each: each if isinstance(each, str) else each["refId"],
)
def test_a_question_of_a_dashboard_has_an_answer(
    reader: psycopg.Connection, board: str, title: str, target: dict[str, Any]
) -> None:
    cursor = reader.execute(expanded(target["rawSql"]).encode())
    assert cursor.fetchall() != []
    names = [column.name for column in cursor.description or ()]
    if target["format"] == "time_series":
        assert names[0] == "time"


def test_the_variable_of_a_dashboard_lists_the_traders(reader: psycopg.Connection) -> None:
    [variable] = BOARDS["trader"]["templating"]["list"]
    found = reader.execute(variable["query"].encode()).fetchall()
    assert {("alice",), ("bob",)} <= set(found)


def test_the_reader_changes_nothing(reader: psycopg.Connection) -> None:
    for statement in (
        "DELETE FROM risk_state",
        "CREATE TABLE x ()",
        "SET default_transaction_read_only = off; UPDATE risk_state SET epoch = 1",
    ):
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            reader.execute(statement.encode())
