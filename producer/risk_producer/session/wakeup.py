"""Wakeup: at which depth of the buffer save() wakes the flusher, and how long the flusher rests."""

from __future__ import annotations

from typing import Final

LINGER_S: Final = 0.002
"""How long a small batch waits to grow, unless a push() waits for it: a flusher woken for each snapshot
would cost the trader more than the snapshot."""

AWAKE_S: Final = 0.1
"""How long after a batch the flusher looks for more by itself, every LINGER_S. To wake it, a call of the
operating system, would be most of what save() costs."""

NEVER: Final = 1 << 60


class Wakeup:
    """Takes the time and the buffer's depth as arguments. Its owner holds a lock."""

    __slots__ = ("_asleep_from", "_half", "depth", "urgent")

    def __init__(self, buffer_size: int) -> None:
        self.depth = 1
        """Depth of the buffer at which save() wakes the flusher."""
        self.urgent = False
        """Whether a call waits for what is in the buffer."""
        self._half = max(1, buffer_size // 2)
        self._asleep_from = 0.0
        """When the flusher, as nothing came, goes to sleep until save() wakes it; monotonic."""

    def rest_s(self, now: float, depth: int, *, at_once: bool) -> float | None:
        """How long the flusher may wait for more to send. 0: not at all; None: until it is woken.

        depth: of the buffer now. at_once: there is a reason not to let the batch grow.
        """
        if depth >= self._half or self.urgent or at_once:
            self.depth = NEVER
            self.urgent = False
            self._asleep_from = now + AWAKE_S
            return 0.0
        asleep = not depth and now >= self._asleep_from
        self.depth = 1 if asleep else self._half
        return None if asleep else LINGER_S
