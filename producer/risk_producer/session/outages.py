"""Outages: the partitions from which Redis takes no snapshots just now, each with its own backoff.

On a Redis Cluster partitions are on different nodes, and on one server a key of one partition may be damaged:
the others go on meanwhile.
"""

from __future__ import annotations

from risk_producer.session.backoff import Backoff

TRY_EVERY_S = 0.25
"""Where several partitions are away, how long after a try that failed none of them is tried: where the whole
of Redis is away, the tries of many add up."""
_NAMED_MAX = 8


class _Away:
    """A partition that is away."""

    __slots__ = ("backoff", "try_at")

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.try_at = 0.0


class Outages:
    """Takes the time as an argument, and writes no log: its owner does. An outage lasts from the first
    partition that fails until all have answered again."""

    def __init__(self, partitions: int) -> None:
        self.count = 0
        """Outages so far."""
        self._partitions = partitions
        self._away: dict[int | None, _Away] = {}
        """By partition; None: something failed that concerns all of them."""
        self._began = 0.0
        self._try_at = 0.0

    def divide(self, partitions: int) -> None:
        """There is another number of partitions from now on."""
        self._partitions = partitions

    @property
    def active(self) -> bool:
        """Whether a partition is away."""
        return bool(self._away)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that are away."""
        away = tuple(self._away)  # a copy: another thread may ask
        if None in away:
            return tuple(range(self._partitions))
        return tuple(sorted(each for each in away if each is not None))

    def is_away(self, partition: int) -> bool:
        """Whether this one is."""
        return partition in self._away or None in self._away

    def reason_of(self, partition: int) -> str | None:
        """Why snapshots of this partition cannot be sent just now; None: they can, as far as is known."""
        away = self._away.get(partition) or self._away.get(None)
        return None if away is None else away.backoff.reason

    @property
    def reason(self) -> str | None:
        """What is away, and why; None: nothing."""
        away = tuple(self._away.values())
        if not away:
            return None
        why = away[0].backoff.reason
        named = self.named(self.partitions)
        return f"{named}: {why}" if named else why

    def named(self, partitions: tuple[int, ...]) -> str:
        """These partitions, for a person; empty: they are all that there are."""
        if sum(each < self._partitions for each in partitions) >= self._partitions:
            return ""
        more = len(partitions) - _NAMED_MAX
        shown = ", ".join(
            str(each) if each < self._partitions else f"{each} (a former one)"
            for each in partitions[:_NAMED_MAX]
        ) + (f" and {more} more" if more > 0 else "")
        return f"partition{'s' if len(partitions) > 1 else ''} {shown} of {self._partitions}"

    def not_before(self, partition: int) -> float:
        """When to send something of this partition, at the earliest; monotonic."""
        away = self._away.get(partition)
        return 0.0 if away is None else max(away.try_at, self._try_at)

    def record_failure(self, partition: int | None, reason: str, asked_at: float, now: float) -> float:
        """A request of this partition, made at asked_at, failed. Returns the seconds until the next try."""
        if not self._away:
            self.count += 1
            self._began = now
        away = self._away.setdefault(partition, _Away())
        wait_s = away.backoff.record_failure(reason)
        away.try_at = now + wait_s
        # A server that says nothing costs a time-out each time: at least half of the time is the others'.
        took_s = now - asked_at if self._partitions > 1 else 0.0
        self._try_at = now + (took_s if len(self._away) == 1 else max(took_s, TRY_EVERY_S))
        return wait_s

    def record_success(self, partition: int, now: float) -> float | None:
        """A request of this partition was answered. Returns the seconds of the outage, if it is over."""
        if self._away.pop(partition, None) is None and None not in self._away:
            return None
        self._away.pop(None, None)
        for away in self._away.values():  # what was wrong may be over for all of them
            away.try_at = now
        self._try_at = now
        return None if self._away else now - self._began
