"""Fixtures of the unit tests: they ask no server."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest

from tests.support.producers import Bench


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    """A client of an empty Redis, which is a fake here; replies are bytes."""
    with fakeredis.FakeRedis() as fake:
        yield fake


@pytest.fixture
def bench(flavour: str) -> Iterator[Bench]:
    """Producers of both kinds on an empty Redis, which is a fake here."""
    with Bench(flavour, None) as made:
        yield made
