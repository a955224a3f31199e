"""Fixtures of the unit tests: they ask no server."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    """A client of an empty Redis, which is a fake here; replies are bytes."""
    with fakeredis.FakeRedis() as fake:
        yield fake
