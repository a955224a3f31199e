"""riskstream's producer: what a trading process imports.

from risk_producer import RiskProducer, RiskSnapshot
"""

# The settings first: they and transport.connect need each other, and only in this order.
from risk_producer.settings import Settings  # isort: split

from risk_producer.aio import AsyncRiskProducer
from risk_producer.contract.snapshot import RiskSnapshot
from risk_producer.errors import (
    ConfigurationError,
    InvalidSnapshot,
    ProducerClosed,
    RiskError,
    StateUnknown,
    StreamFull,
    StreamUnavailable,
)
from risk_producer.load.sources import LoadedState
from risk_producer.process import close_on_sigterm
from risk_producer.session.health import Health
from risk_producer.threaded import RiskProducer

__all__ = [
    "AsyncRiskProducer",
    "ConfigurationError",
    "Health",
    "InvalidSnapshot",
    "LoadedState",
    "ProducerClosed",
    "RiskError",
    "RiskProducer",
    "RiskSnapshot",
    "Settings",
    "StateUnknown",
    "StreamFull",
    "StreamUnavailable",
    "close_on_sigterm",
]
