"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from risk_worker.stream.source import connect
from tests.support.books import Books


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with connect(redis_url) as connected:
        yield connected


@pytest.fixture
def books(client: Any, database_url: str) -> Books:
    return Books(client, database_url)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
