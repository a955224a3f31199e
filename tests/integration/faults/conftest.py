"""Fixtures of the fault tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.ledger import Ledger


@pytest.fixture
def ledger(client: Any, database_url: str) -> Ledger:
    return Ledger(client, database_url)
