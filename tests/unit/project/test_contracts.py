"""The import contracts hold for modules not yet written: throw-away ones break them in any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from risk_producer.transport.connect import RedisClient

ROOT = Path(__file__).parents[3]
SOURCES = ("producer", "worker", "devkit")
THROW_AWAY = "import psycopg\nimport redis\nimport rq\n\nprint(psycopg, redis, rq)\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and the contracts, in a folder of their own."""
    return copied_to(tmp_path)


def copied_to(folder: Path) -> Path:
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@dataclass(frozen=True)
class Spoilt:
    """What the check says of a copy with throw-away modules and a folder that is not placed.

    That it says nothing of the packages themselves is seen by `make check`.
    """

    modules: list[str]
    status: int
    said: str


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    copy = copied_to(tmp_path_factory.mktemp("spoilt"))
    modules = []
    for source in SOURCES:
        for init in sorted((copy / source).rglob("__init__.py")):
            (init.parent / "throw_away.py").write_text(THROW_AWAY)
            modules.append(".".join([*init.parent.relative_to(copy / source).parts, "throw_away"]))
    (copy / "worker" / "risk_worker" / "reports").mkdir()
    (copy / "worker" / "risk_worker" / "reports" / "__init__.py").touch()
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=copy,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(copy / name) for name in SOURCES),
            "COLUMNS": "250",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Spoilt(modules, done.returncode, done.stdout + done.stderr)


def test_a_module_that_imports_every_driver_breaks_a_contract_in_any_folder(spoilt: Spoilt) -> None:
    assert len(spoilt.modules) > 15
    assert spoilt.status == 1
    assert "broken" in spoilt.said
    assert [module for module in spoilt.modules if f"{module} ->" not in spoilt.said] == []
    assert set(re.findall(r"(\S+) -> ", spoilt.said)) <= set(spoilt.modules), spoilt.said


def test_a_folder_has_to_be_placed(spoilt: Spoilt) -> None:
    assert (spoilt.status, "reports" in spoilt.said) == (1, True)


WAYS_TO_CONNECT = """
redis.Redis()
redis.Redis.from_url("x")
redis.Redis.from_pool(1)
redis.StrictRedis()
redis.RedisCluster()
redis.Sentinel([])
redis.from_url("x")
redis.Connection()
redis.SSLConnection()
redis.UnixDomainSocketConnection()
redis.ConnectionPool()
redis.ConnectionPool.from_url("x")
redis.BlockingConnectionPool()
redis.client.Redis()
redis.cluster.RedisCluster()
redis.connection.Connection()
redis.sentinel.Sentinel([])
redis.utils.from_url("x")
redis.asyncio.Redis()
redis.asyncio.Redis.from_url("x")
redis.asyncio.from_url("x")
redis.asyncio.ConnectionPool()
redis.asyncio.client.Redis()
from redis import Redis
from redis import Redis as Client, ConnectionPool
from redis.client import Redis
from redis.asyncio import Redis
from redis import asyncio
import redis.asyncio as aioredis
other_name.Redis()
psycopg.connect("x")
psycopg.Connection.connect("x")
psycopg.AsyncConnection.connect("x")
psycopg.connection.Connection.connect("x")
from psycopg import connect
from psycopg.connection import Connection
redis.RedisError
from redis.exceptions import RedisError
import psycopg_pool
from psycopg_pool import AsyncConnectionPool
risk_worker.database.connection.Connection.connect("x")
""".strip().splitlines()


def test_a_connection_that_is_made_elsewhere_is_found_in_any_folder(copy: Path) -> None:
    head = [
        "import psycopg",
        "import redis",
        "import redis as other_name",
        "import risk_worker.database.connection",
    ]
    paths = [init.parent / "throw_away.py" for name in SOURCES for init in (copy / name).rglob("__init__.py")]
    for path in paths:
        path.write_text("\n".join([*head, *WAYS_TO_CONNECT, ""]))
    command = ["check", "--no-cache", "--select", "TID251", "--output-format", "json", "."]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ruff")), *command],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    found = {(each["filename"], each["location"]["row"] - len(head)) for each in json.loads(done.stdout)}
    expected = {(str(path), row) for path in paths for row in range(1, len(WAYS_TO_CONNECT) + 1)}
    assert {WAYS_TO_CONNECT[row - 1] for _, row in expected - found} == set()
    assert found == expected


def test_the_type_of_a_client_makes_none() -> None:
    assert not callable(RedisClient)
