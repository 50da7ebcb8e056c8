"""How fast the receive window of a sender without pacing may open.  Sans-IO; `receiver.py` asks.

A stock sender sends at once all that its window allows, and overruns the queue of the bottleneck.  Its `ts` is a clock in
milliseconds, so arrival minus `ts` shows that queue: the window's right edge is let advance only as fast as the path delivers,
and the window kept no larger than what holds the queue near a target.  Figures are in docs/arq.md, A stock sender.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from easytier_kcp_plugin.kcp.arq.estimate import RecentMax

# Ours.  Windows in segments, queueing delay in milliseconds (the unit of the sender's clock).
FIRST_WINDOW: Final = 128.0
SMALLEST_WINDOW: Final = 32.0
SMALLEST_ADVANCE: Final = 16
TARGET_MS: Final = 8.0
HEADROOM: Final = 1.05
TOLD_EVERY: Final = 0.002
"""Seconds between segments that tell of the edge alone."""
STALL_MS: Final = 15.0
"""A delay that grows by so much from one segment to the next is no queue: something holds everything up."""
STALLED_FROM: Final = 0.10
STALLED_UNTIL: Final = 0.02
"""Shares of the time spent so, from which on and until which the path counts as a stream."""
_STALL_PERIOD: Final = 0.5
_BASE_BUCKET: Final = 10.0
_MIN_INTERVAL: Final = 0.03


@dataclass(slots=True)
class WindowEdge:
    """The window offered to one unpaced sender, at most `capacity` segments."""

    capacity: int
    cap: float = FIRST_WINDOW
    """Window that the queue allows."""
    edge: float = 0.0
    """Sequence number that the sender must not reach."""
    queue_ms: float = 0.0
    _gain: float = 1.0
    _growing_fast: bool = True
    _arrived: int = 0
    _arrivals_at: float = -math.inf
    _rates: RecentMax = field(default_factory=RecentMax)
    _advanced_at: float = 0.0
    _delay: float = math.inf
    _delay_at: float = 0.0
    _base: float = math.inf
    _base_before: float = math.inf
    _base_at: float = 0.0
    stream: bool = False
    """Whether the path repeats what it loses and keeps the order: its delays say nothing of a queue then."""
    _last_delay: float = math.inf
    _last_at: float = 0.0
    _stalled: float = 0.0
    _stalled_share: float = 0.0
    _stalls_since: float = 0.0

    def arrive(self, sent_ms: int, now: float) -> None:
        """A PUSH came, with `sent_ms` on the sender's clock (any offset, continued over its wrap)."""
        self._arrived += 1
        delay = now * 1000 - sent_ms
        self._delay = min(self._delay, delay)
        if delay > self._last_delay + STALL_MS:
            self._stalled += now - self._last_at
        self._last_delay, self._last_at = delay, now
        if now - self._stalls_since >= _STALL_PERIOD:
            self._judge_stalls(now)

    def advance(self, rcv_nxt: int, rtt: float, now: float) -> None:
        """Move the edge to where it may be; `rtt` in seconds."""
        if self._arrivals_at == -math.inf:
            self._arrivals_at = self._advanced_at = self._delay_at = self._base_at = now
        span = now - self._arrivals_at
        if span >= max(0.02, rtt / 2):
            self._rates.add(now, self._arrived / span)
            self._rates.forget_before(now - max(1.0, 10 * rtt))
            self._arrived, self._arrivals_at = 0, now
        moved = self._rates.value * HEADROOM * self._gain * (now - self._advanced_at)
        self.edge = min(max(self.edge, rcv_nxt + float(SMALLEST_ADVANCE)) + moved, rcv_nxt + self.cap)
        self._advanced_at = now
        if self.stream:
            # What the path holds, its stalls included, which `rtt` does.
            self.cap = min(float(self.capacity), max(FIRST_WINDOW, self._rates.value * rtt))
            self.edge = rcv_nxt + self.cap
        elif now - self._delay_at >= max(rtt / 2, _MIN_INTERVAL) and self._delay is not math.inf:
            self._adapt(rtt, now)

    def window(self, rcv_nxt: int) -> int:
        """What to advertise."""
        if not self._rates.value:
            return int(self.cap)
        return int(min(self.cap, max(float(SMALLEST_ADVANCE), self.edge - rcv_nxt)))

    def moving(self, rcv_nxt: int) -> bool:
        """Whether the edge will advance by itself."""
        return self._rates.value > 0 and self.edge < rcv_nxt + self.cap - 1

    def _judge_stalls(self, now: float) -> None:
        elapsed = now - self._stalls_since
        weight = min(1.0, elapsed / (4 * _STALL_PERIOD))
        self._stalled_share += weight * (min(1.0, self._stalled / elapsed) - self._stalled_share)
        self.stream = self._stalled_share > (STALLED_UNTIL if self.stream else STALLED_FROM)
        self._stalled, self._stalls_since = 0.0, now

    def _adapt(self, rtt: float, now: float) -> None:
        if now - self._base_at > _BASE_BUCKET:
            self._base_before, self._base, self._base_at = self._base, self._delay, now
        self._base = min(self._base, self._delay)
        queue = self.queue_ms = self._delay - min(self._base, self._base_before)
        self._delay, self._delay_at = math.inf, now
        self._gain = min(1.05, max(0.75, 1 + 0.1 * (TARGET_MS - queue) / TARGET_MS))
        capacity = float(self.capacity)
        if queue > 1.5 * TARGET_MS:
            self._growing_fast = False
            excess = 0.7 * (queue - TARGET_MS) / (rtt * 1000 + 10 + queue)
            self.cap = min(capacity, max(SMALLEST_WINDOW, self.cap * (1 - min(0.25, excess))))
        elif self._growing_fast:
            self.cap = min(capacity, self.cap * 1.35)
        else:
            self.cap = min(capacity, self.cap + max(4.0, 0.04 * self.cap))
