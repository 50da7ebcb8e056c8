"""What a path is measured by: round-trip times, the largest of recent values, loss.  Estimators only; `rate.py` decides."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

# Ours.
RTT_BUCKET: Final = 5.0
"""Seconds; the lowest RTT is that of this bucket and the one before."""
FIRST_GUESS: Final = 0.05
"""Seconds, until a round trip has been measured."""
LOSS_MEMORY: Final = 3000.0
SLOW_MEMORY: Final = 2000.0
"""Datagrams that the averages reach back over."""
_ROUND_MIN: Final = 40
_SLOW_MIN: Final = 50


@dataclass(slots=True)
class RecentMax:
    """The largest of the values whose key (a time or a round) is recent; the newest value stays however old it is."""

    _entries: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, key: float, value: float) -> None:
        """Keys must not fall."""
        entries = self._entries
        while entries and entries[-1][1] <= value:
            entries.pop()
        entries.append((key, value))

    def forget_before(self, key: float) -> None:
        """Drop what is older, but for the last one."""
        entries = self._entries
        while len(entries) > 1 and entries[0][0] < key:
            entries.popleft()

    @property
    def value(self) -> float:
        """0 if there is none."""
        return self._entries[0][1] if self._entries else 0.0


@dataclass(slots=True)
class RoundTrips:
    """Round-trip times in seconds."""

    told: float | None = None
    """Measured by others, such as a handshake."""
    smoothed: float = 0.0
    """0 before the first sample."""
    variance: float = 0.0
    lowest: float = math.inf
    epoch_lowest: float = math.inf
    """Since whoever reads it has set it to infinity."""
    _bucket: float = math.inf
    _bucket_before: float = math.inf
    _bucket_at: float = 0.0

    @property
    def best(self) -> float:
        """Smoothed, or what was told, or a guess."""
        return self.smoothed or self.told or FIRST_GUESS

    def tell(self, rtt: float) -> None:
        """Take in a round trip that was not that of a segment."""
        self.told = rtt if self.told is None else self.told + (rtt - self.told) / 8

    def sample(self, rtt: float, now: float) -> None:
        """Take a round trip of one transmission in."""
        if self._bucket is math.inf:
            self._bucket_at = now
        if now - self._bucket_at > RTT_BUCKET:
            self._bucket_before, self._bucket, self._bucket_at = self._bucket, rtt, now
        self._bucket = min(self._bucket, rtt)
        self.lowest = min(self._bucket, self._bucket_before)
        self.epoch_lowest = min(self.epoch_lowest, rtt)
        if self.smoothed:
            self.variance += (abs(rtt - self.smoothed) - self.variance) / 4
            self.smoothed += (rtt - self.smoothed) / 8
        else:
            self.smoothed, self.variance = rtt, rtt / 8

    def rebase(self, lowest: float) -> None:
        """The way has become longer: `lowest` is what it takes when empty."""
        self._bucket = self._bucket_before = self.lowest = lowest


@dataclass(slots=True)
class Loss:
    """Shares of lost transmissions: of all, and of those sent while we kept the queue empty (`floor`: not our own doing)."""

    share: float = 0.0
    floor: float = 0.0
    resolved: int = 0
    acked: int = 0
    lost: int = 0
    slow_acked: int = 0
    slow_lost: int = 0
    _slow_resolved: float = 0.0
    _slow_lost_before: float = 0.0

    def end_round(self) -> None:
        """Fold a round in, if it was long enough."""
        count = self.acked + self.lost
        if count < _ROUND_MIN:
            return
        first = self.resolved == 0
        self.resolved += count
        weight = 1.0 if first else min(1.0, count / min(self.resolved, LOSS_MEMORY))
        self.share = max(0.0, self.share + (self.lost / count - self.share) * weight)
        self.acked = self.lost = 0

    def end_slow(self) -> None:
        """Fold in what was sent slowly; to be called when it has all been resolved."""
        count = self.slow_acked + self.slow_lost
        if count < _SLOW_MIN:
            return
        keep = min(1.0, SLOW_MEMORY / max(1.0, self._slow_resolved))
        self._slow_resolved = min(self._slow_resolved, SLOW_MEMORY) + count
        self._slow_lost_before = self._slow_lost_before * keep + self.slow_lost
        self.slow_acked = self.slow_lost = 0
        self.floor = max(0.0, self._slow_lost_before / self._slow_resolved)
