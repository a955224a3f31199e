"""riskstream's producer: what a trading process imports.

from risk_producer import RiskProducer, RiskSnapshot

Each name is imported when it is first used: redis-py alone takes a quarter of a second of the processor, and
the errors and the settings do not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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
    from risk_producer.settings import Settings
    from risk_producer.threaded import RiskProducer

_MODULES: Final = {
    "AsyncRiskProducer": "aio",
    "ConfigurationError": "errors",
    "Health": "session.health",
    "InvalidSnapshot": "errors",
    "LoadedState": "load.sources",
    "ProducerClosed": "errors",
    "RiskError": "errors",
    "RiskProducer": "threaded",
    "RiskSnapshot": "contract.snapshot",
    "Settings": "settings",
    "StateUnknown": "errors",
    "StreamFull": "errors",
    "StreamUnavailable": "errors",
    "close_on_sigterm": "process",
}

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
