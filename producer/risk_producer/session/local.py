"""LocalState: what a producer itself knows of a trader's newest state, for load()."""

from __future__ import annotations

from typing import Literal, NamedTuple

from risk_producer.contract.snapshot import RiskSnapshot

Source = Literal["memory", "spool", "redis", "postgres"]
"""Where a state was found."""


class LocalState(NamedTuple):
    """The newest snapshot that this producer accepted of a trader."""

    snapshot: RiskSnapshot | None
    """None: there is none."""
    epoch: int | None
    """Its epoch; None: not claimed yet."""
    source: Source
    """memory, or spool: an earlier process accepted it."""
