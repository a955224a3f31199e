"""The reconciliation: what was accepted, set against what became of it. It asks neither Redis nor
Postgres: what they hold is passed in.

accepted + foreign = stored + dead + dropped + conflated + in flight + not retained, where nothing is lost;
what is known to be lost is counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from risk_producer.contract import counters as names
from risk_worker.audit.known_loss import KnownLoss
from risk_worker.audit.ledger import BEGINNING, NOTHING, EpochKey, Ledger
from risk_worker.audit.ranges import Range, shown, size, split, subtract


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What became of the snapshots of one epoch of a trader. All are numbers of snapshots."""

    trader_id: str
    epoch: int
    accepted: int
    stored: int
    dead: int
    conflated: int
    in_flight: int
    lost: int
    duplicates: int
    gaps: Sequence[Range] = ()
    """The seq numbers that are lost."""
    not_retained: int = 0
    """What has expired, as the seals say, or is gone from history and was recorded before the horizon."""
    foreign: int = 0
    """Dead letters and entries in its name that no producer sent; they count as dead or in flight."""
    dropped: int = 0
    """What an operator has dropped as a dead letter, as the chain of seals says; the gaps are without it."""
    known_lost: int = 0
    """What is lost, and accepted as lost by an operator; the gaps are without it."""
    lost_earlier: int = 0
    """What was lost before the time from which on losses count; the gaps are without it."""

    @property
    def problems(self) -> Iterator[str]:
        """What is wrong, one sentence each."""
        name = f"{self.trader_id}, epoch {self.epoch}"
        for gap in self.gaps:
            yield f"{name}: lost {shown(gap)}"
        if self.duplicates:
            yield f"{name}: {self.duplicates:,} stored more than once"
        found = self.stored + self.dead + self.conflated + self.in_flight + self.not_retained
        found += self.dropped + self.known_lost + self.lost_earlier
        if self.accepted + self.foreign != found + self.lost - self.duplicates:
            yield f"{name}: {self.accepted:,} accepted, but {found:,} accounted for"


_SUMS: Final = (
    names.ACCEPTED,
    names.FOREIGN,
    names.STORED,
    names.DEAD,
    "dropped",
    names.CONFLATED,
    "in_flight",
    "not_retained",
    "lost",
    "known_lost",
    "lost_earlier",
    names.DUPLICATES,
)
"""Fields of EpochReport. What Redis counts too has the name of that counter."""


@dataclass(frozen=True, slots=True)
class Report:
    """The reconciliation of the whole system, or of one trader."""

    epochs: Sequence[EpochReport]
    states_behind: Sequence[str]
    """Traders whose risk_state is not the newest of their history."""
    foreign_dead: int = 0
    foreign_in_flight: int = 0
    """Entries that came into the stream by another way than a producer, and name no trader."""
    dead_but_stored: int = 0
    """Dead letters of what is stored all the same, and not counted as dead: a retry that did not finish."""
    findings: Sequence[str] = ()
    """What else is wrong, a sentence each: what Redis holds and cannot be read, traders held back,
    partitions that are not drained."""
    undecided: Sequence[str] = ()
    """Of the findings: what Redis holds and cannot be read, so that what is in flight may seem to be lost."""
    not_drained: Sequence[str] = ()
    """Of the findings: partitions that are not drained. What waits there is no difference."""
    known_losses: Sequence[KnownLoss] = ()
    """What operators have accepted as lost."""
    lost_no_longer: Sequence[str] = ()
    """Known losses of which something is there after all, a sentence each."""
    lost_since: datetime | None = None
    """What was lost earlier is no problem; None: whenever it was."""
    retained_since: datetime | None = None
    """The horizon: what was recorded before it may be gone from history."""
    sealed_until: str = BEGINNING
    """What was stored earlier is counted by the seals' totals, as Postgres writes it."""
    rows_read: int | None = None
    """How many sealed rows were read again, and compared with the seals. None: that was not asked for."""
    seconds: float = 0.0
    """That reading took."""

    @property
    def totals(self) -> dict[str, int]:
        """The sums, by the names that --json has."""
        sums = {name: sum(getattr(epoch, name) for epoch in self.epochs) for name in _SUMS}
        sums[names.FOREIGN] += self.foreign_dead + self.foreign_in_flight
        sums[names.DEAD] += self.foreign_dead
        sums["in_flight"] += self.foreign_in_flight
        return sums | {"state_behind": len(self.states_behind)}

    @property
    def reconciled(self) -> bool:
        """Whether nothing is wrong."""
        return next(self.each_problem(), None) is None

    @property
    def consistent(self) -> bool:
        """Whether nothing is wrong, but for partitions that are not drained."""
        return all(each in self.not_drained for each in self.each_problem())

    @property
    def problems(self) -> list[str]:
        """What is wrong, one sentence each; empty: it is reconciled."""
        return list(self.each_problem())

    def each_problem(self) -> Iterator[str]:
        """The problems, one at a time: there may be millions."""
        for epoch in self.epochs:
            yield from epoch.problems
        yield from (f"{trader}: risk_state is not the newest of its history" for trader in self.states_behind)
        yield from self.lost_no_longer
        yield from self.findings


def reconcile(
    admitted: Mapping[EpochKey, int],
    waiting: Mapping[EpochKey, Iterable[Range]],
    ledger: Ledger,
    foreign: int = 0,
    foreign_of: Mapping[EpochKey, int] | None = None,
    known_losses: Sequence[KnownLoss] = (),
) -> Report:
    """Set what was read side by side.

    admitted: the last seq that Redis admitted. waiting: (first, last) seq of each entry in a stream; what
    the database has too is not in flight any more. foreign: entries in a stream that are no snapshots.
    foreign_of: entries in a stream in the name of an epoch that no producer sent. known_losses: by trader,
    epoch and seq.
    """
    foreign_of = foreign_of or {}
    losses: dict[EpochKey, list[KnownLoss]] = defaultdict(list)
    for loss in known_losses:
        losses[loss.trader_id, loss.epoch].append(loss)
    lost_no_longer: list[str] = []
    epochs = []
    known = admitted.keys() | waiting.keys() | ledger.epochs.keys() | foreign_of.keys()
    following: EpochKey | None = None
    for key in sorted(known, reverse=True):
        totals = ledger.epochs.get(key, NOTHING)
        entries = list(waiting.get(key, ()))
        accepted = max(admitted.get(key, 0), totals.highest, *(last for _, last in entries), 0)
        tail = [(totals.highest + 1, accepted)] if accepted > totals.highest else []
        left, in_flight, filled = subtract([*totals.gaps, *tail], entries)
        gaps, dropped = split(left, ledger.dropped.get(key, ()))
        gaps, gone = split(gaps, _expired(key, accepted, ledger, following))
        gaps, given_up = split(gaps, (loss.numbers for loss in losses.get(key, ())))
        lost_no_longer += _no_longer(losses.get(key, ()), left, accepted)
        in_its_name = foreign_of.get(key, 0)
        epochs.append(
            EpochReport(
                trader_id=key[0],
                epoch=key[1],
                accepted=accepted,
                stored=totals.stored - totals.gone,
                dead=totals.dead + totals.foreign,
                conflated=totals.conflated + filled - in_flight,
                in_flight=in_flight + in_its_name,
                lost=size(gaps),
                duplicates=totals.duplicates,
                gaps=gaps,
                not_retained=size(gone) + totals.gone,
                foreign=totals.foreign + in_its_name,
                dropped=size(dropped),
                known_lost=size(given_up),
            )
        )
        following = key
    epochs.reverse()
    return Report(
        epochs,
        ledger.stale,
        ledger.unidentified,
        foreign,
        ledger.dead_but_stored,
        known_losses=known_losses,
        lost_no_longer=lost_no_longer,
        retained_since=ledger.horizon,
        sealed_until=ledger.sealed_until,
    )


def _expired(key: EpochKey, accepted: int, ledger: Ledger, following: EpochKey | None) -> list[Range]:
    """The seq numbers of an epoch that were recorded before the horizon, as far as that can be known."""
    totals = ledger.epochs.get(key, NOTHING)
    expired = list(totals.expired)
    if ledger.horizon is None:
        return expired
    trader_id, epoch = key
    state = ledger.states.get(trader_id)
    ended: float | None = None  # seconds since 1970
    if state is not None and state.epoch == epoch and state.seq >= accepted:
        ended = state.recorded_at.timestamp()
    elif following is not None and following[0] == trader_id:
        ended = following[1] / 1000  # an epoch is the time at which it was claimed, in ms
    if ended is not None and ended < ledger.horizon.timestamp():
        expired.append((totals.highest_row + 1, accepted))
    return expired


def _no_longer(losses: Sequence[KnownLoss], missing: Sequence[Range], accepted: int) -> Iterator[str]:
    """A sentence for each known loss of which something is not missing any more."""
    for loss in losses:
        there, _ = split([loss.numbers], [*missing, (accepted + 1, max(accepted, loss.last_seq) + 1)])
        if there:
            yield (
                f"{loss.trader_id}, epoch {loss.epoch}: {shown(there[0])} is there after all, and was "
                f"accepted as lost; riskstream verify undo {loss.number}"
            )


def without_earlier(report: Report, since: datetime, recorded_before: Mapping[EpochKey, int]) -> Report:
    """The report, with losses before a time set apart.

    recorded_before: of each epoch the highest seq that was recorded before that time. What an epoch lost at
    its end was lost before the trader's next epoch was claimed.
    """
    epochs: list[EpochReport] = []
    following: EpochReport | None = None
    for each in reversed(report.epochs):
        until = recorded_before.get((each.trader_id, each.epoch), 0)
        if (
            following is not None
            and following.trader_id == each.trader_id
            and following.epoch / 1000 < since.timestamp()
        ):
            until = each.accepted
        following = each
        gaps, earlier = split(each.gaps, [(1, until)] if until else ())
        epochs.append(replace(each, gaps=gaps, lost=size(gaps), lost_earlier=size(earlier)))
    epochs.reverse()
    return replace(report, epochs=epochs, lost_since=since)
