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
"""Partitions, and reasons, that are named to a person."""


class _Away:
    """A partition that is away."""

    __slots__ = ("backoff", "took_s", "try_at")

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.try_at = 0.0
        self.took_s = 0.0
        """How long its last try held up the other partitions."""


class Outages:
    """Takes the time as an argument, and writes no log: its owner does. An outage lasts from the first
    partition that fails until all have answered again."""

    def __init__(self, partitions: int) -> None:
        self.count = 0
        """Outages so far."""
        self._partitions = partitions
        self._away: dict[int | None, _Away] = {}
        """By partition; None: something failed that concerns all of them."""
        self._doubtful: dict[int, float] = {}
        """Partitions that had nothing to send when their server did not answer -> what a try took."""
        self._began = 0.0
        self._tried_at = 0.0
        """When the last try that failed was over."""
        self._pause_until = 0.0
        """Until then the others have as long as a try took: a server that says nothing costs a time-out each
        time, and at least half of the time is theirs. What fails at once does not wait for it."""

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

    def is_away(self, partition: int | None) -> bool:
        """Whether this one is; None: whether something failed that concerns all of them."""
        return partition in self._away or None in self._away

    def is_doubtful(self, partition: int) -> bool:
        """Whether it is away, or on a server that did not answer: asking may take until a time-out."""
        return self.is_away(partition) or partition in self._doubtful

    def reason_of(self, partition: int) -> str | None:
        """Why snapshots of this partition cannot be sent just now; None: they can, as far as is known."""
        away = self._away.get(partition) or self._away.get(None)
        return None if away is None else away.backoff.reason

    @property
    def reasons(self) -> dict[str, tuple[int, ...]]:
        """Why what is away is away -> the partitions that are away for this reason."""
        found: dict[str, list[int]] = {}
        for partition, away in tuple(self._away.items()):  # a copy: another thread may ask
            numbers = range(self._partitions) if partition is None else [partition]
            found.setdefault(away.backoff.reason, []).extend(numbers)
        return {why: tuple(sorted(set(numbers))) for why, numbers in found.items()}

    @property
    def reason(self) -> str | None:
        """What is away, and why, each with its own reason; None: nothing."""
        texts = [
            f"{named}: {why}" if (named := self.named(numbers)) else why
            for why, numbers in self.reasons.items()
        ]
        more = len(texts) - _NAMED_MAX
        shown = texts[:_NAMED_MAX] + ([f"and {more} more reasons"] if more > 0 else [])
        return "; ".join(shown) or None

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
        if away is None and partition not in self._doubtful:
            return 0.0
        took_s = self._doubtful[partition] if away is None else away.took_s
        return max(
            0.0 if away is None else away.try_at,
            min(self._pause_until, self._tried_at + took_s),
            self._tried_at + TRY_EVERY_S if len(self._away) > 1 else 0.0,
        )

    def record_failure(self, partition: int | None, reason: str, took_s: float, now: float) -> float:
        """A request of this partition failed, for which the others waited took_s seconds.

        Returns the seconds until the next try.
        """
        if not self._away:
            self.count += 1
            self._began = now
        away = self._away.setdefault(partition, _Away())
        wait_s = away.backoff.record_failure(reason)
        away.try_at = now + wait_s
        away.took_s = took_s if self._partitions > 1 else 0.0
        self._tried_at = now
        self._pause_until = max(self._pause_until, now + away.took_s)
        return wait_s

    def record_silence(self, partition: int, took_s: float) -> None:
        """The server of this partition, which has nothing to send, did not answer within took_s seconds."""
        self._doubtful[partition] = took_s

    def record_success(self, partition: int, now: float) -> float | None:
        """A request of this partition was answered. Returns the seconds of the outage, if it is over."""
        self._doubtful.pop(partition, None)
        if self._away.pop(partition, None) is None and None not in self._away:
            return None
        self._away.pop(None, None)
        for away in self._away.values():  # what was wrong may be over for all of them
            away.try_at = now
        self._tried_at = self._pause_until = 0.0
        if self._away:
            return None
        self._doubtful.clear()
        return now - self._began
