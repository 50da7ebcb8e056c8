"""Short changes of the rate that show something: dips a path's empty queue and its own losses, surges whether it carries more.

Here is decided when, how long and how deep; `rate.py` obeys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Ours.  Times in seconds.
FIRST_AFTER: Final = 1.0
EARLY_INTERVAL: Final = 1.5
INTERVAL: Final = 5.0
_EARLY: Final = 3
SHALLOW: Final = 0.85
DEEP: Final = 0.5
LOW_GAIN_EPOCHS: Final = 10
"""So many epochs of braking in a row: the lowest RTT is perhaps no longer true."""
SURGE_ROUNDS: Final = 8
SURGE_ROUNDS_MAX: Final = 64
_SURGE_HELPED: Final = 1.08
_SURGE_AGAIN: Final = 3


@dataclass(slots=True)
class Dips:
    """The plan of slow-downs of one path."""

    until: float = 0.0
    gain: float = 1.0
    count: int = 0
    _next_at: float = math.inf
    _watching: bool = False
    _lowest: float = math.inf
    _drains: bool = True
    """Whether the current one is long enough to drain the queue."""
    _too_short: int = 0

    def observe(self, now: float, lowest: float, base: float, target: float, settle: float) -> float | None:
        """Take the lowest RTT of an epoch in.  Returns a new base RTT if the dip that ended has shown one.

        `base` is the present base, `target` the queueing delay that we aim at, `settle` the time a change takes to be seen.
        """
        if not self._watching:
            return None
        if now <= self.until + settle:
            self._lowest = min(self._lowest, lowest)
            return None
        self._watching = False
        found = self._lowest
        return found if self._drains and base + target / 2 < found < math.inf else None

    def due(self, now: float, low_epochs: int, rtt: float) -> bool:
        """Whether to begin another."""
        if self._next_at is math.inf:
            self._next_at = now + FIRST_AFTER
        if self._watching:
            return False
        return now >= self._next_at or (low_epochs >= LOW_GAIN_EPOCHS and now > self.until + max(1.0, 4 * rtt))

    def begin(self, now: float, queueing: float, excess: float, target: float, lowest: float) -> None:
        """Begin one.  `queueing` is the present queueing delay, `excess` how far the base is above the lowest RTT of a while,
        `lowest` the base."""
        deep = excess > target
        self.gain = DEEP if deep else SHALLOW
        needed = (excess + queueing) / DEEP if deep else (queueing + 0.001) / (1 - SHALLOW)
        longest = max(0.3, 2 * lowest)
        self._drains = needed <= longest or self._too_short >= 1
        self._too_short = 0 if self._drains else self._too_short + 1
        self.until = now + min(max(needed, min(lowest, 0.1), 0.02), longest)
        self._watching, self._lowest = True, math.inf
        self.count += 1
        self._next_at = now + (EARLY_INTERVAL if self.count < _EARLY else INTERVAL)


@dataclass(slots=True)
class Surges:
    """The plan of one path's surges, each an RTT long."""

    until: float = 0.0
    _round: int = 0
    _gap: int = SURGE_ROUNDS
    _bandwidth: float = 0.0

    def consider(self, now: float, number: int, bandwidth: float, lowest: float) -> None:
        """Perhaps begin one, in round `number` of a calm path; `bandwidth` is what it carries, `lowest` its RTT."""
        if number < self._round:
            return
        again = False
        if self._bandwidth:
            again = bandwidth > _SURGE_HELPED * self._bandwidth
            self._gap = SURGE_ROUNDS if again else min(SURGE_ROUNDS_MAX, 2 * self._gap)
        self._bandwidth = bandwidth
        self.until = now + lowest
        self._round = number + (_SURGE_AGAIN if again else self._gap)
