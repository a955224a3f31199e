"""`riskstream verify accept`: record that snapshots are lost, where they really are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from risk_producer.settings import Settings
from risk_worker.audit import known_loss
from risk_worker.audit.known_loss import NotAccepted
from risk_worker.audit.ranges import Range, shown, split
from risk_worker.audit.reconcile import EpochReport
from risk_worker.audit.verify import verify

_SHOWN_MAX: Final = 5


def accept(settings: Settings, trader: str, epoch: int, numbers: Range, *, reason: str, by: str) -> int:
    """Look whether all of these seq numbers are lost now, and record it. Returns the number of the entry.

    Raises NotAccepted where one of them is not lost, or where that cannot be decided; and as verify().
    """
    report = verify(settings, trader)
    if report.undecided:
        raise NotAccepted(
            "what is lost cannot be decided while a part of Redis cannot be read: "
            + "; ".join(report.undecided)
        )
    found = next((each for each in report.epochs if each.epoch == epoch), None)
    if found is None:
        raise NotAccepted(f"{trader} has no epoch {epoch}. {_lost(report.epochs)}")
    others, _ = split([numbers], found.gaps)
    if others:
        named = ", ".join(shown(each) for each in others[:_SHOWN_MAX])
        more = f" and {len(others) - _SHOWN_MAX} more" if len(others) > _SHOWN_MAX else ""
        raise NotAccepted(
            f"{trader}, epoch {epoch}: not lost are {named}{more}: they are stored, dead letters, dropped, "
            f"conflated, in flight, expired, accepted as lost already, or were never sent. {_lost([found])}"
        )
    database_url = settings.require_database_url()
    return known_loss.record(database_url, trader, epoch, numbers, reason=reason, by=by)


def _lost(epochs: Sequence[EpochReport]) -> str:
    """What is lost, for the one who named something else."""
    lost = [f"epoch {each.epoch}, {shown(gap)}" for each in epochs for gap in each.gaps]
    more = f" and {len(lost) - _SHOWN_MAX} more" if len(lost) > _SHOWN_MAX else ""
    return f"Lost: {', '.join(lost[:_SHOWN_MAX])}{more}" if lost else "Nothing of it is lost"
