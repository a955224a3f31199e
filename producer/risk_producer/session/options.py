"""Options: what does not change while a producer runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from risk_producer.session.buffer import OnFull

STALL_S: Final = 60.0
"""A snapshot that waits for longer is logged, once and each minute again."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a session; RiskProducer's docstring explains each."""

    namespace: str = ""
    partitions: int = 1
    stream_maxlen: int = 1_000_000
    buffer_size: int = 1_024
    save_timeout_s: float = 5.0
    on_full: OnFull = "block"
    persistent: bool = True
    stall_s: float = STALL_S
