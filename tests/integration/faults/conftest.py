"""Fixtures of the fault tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.books import Books


@pytest.fixture
def books(client: Any, database_url: str) -> Books:
    return Books(client, database_url)
