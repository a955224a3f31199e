"""Fixtures for pytest. In conftest.py: pytest_plugins = ["risk_producer.pytest_plugin"]"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from risk_producer.testing import AsyncRecordingProducer, RecordingProducer


@pytest.fixture
def recording_producer() -> Iterator[RecordingProducer]:
    """A RiskProducer that records what it is given, without Redis."""
    with RecordingProducer() as producer:
        yield producer


@pytest.fixture
def async_recording_producer() -> AsyncRecordingProducer:
    """An AsyncRiskProducer that records what it is given, without Redis."""
    return AsyncRecordingProducer()
