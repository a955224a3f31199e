"""For how long what the drain has read waits for its COMMIT."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Uncommitted:
    """Since when the drain has had something in hand without a COMMIT, however often it was tried.

    begin() and end() are called by the drain, seconds() by any thread.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def begin(self) -> None:
        """Something is about to be stored; it may be another try."""
        if self._since is None:
            self._since = self._clock()

    def end(self) -> None:
        """It is committed; or it is not known whether anything waits, as Redis does not answer."""
        self._since = None

    def seconds(self) -> float:
        """For how long it has waited; 0 where nothing does."""
        since = self._since
        return 0.0 if since is None else self._clock() - since
