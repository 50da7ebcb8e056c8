"""Whether datagrams are worth being gathered before they are read.  Sans-IO; `udp_socket.py` asks after each wake-up.

At a hundred megabits a second a datagram comes each tenth of a millisecond, and a turn of the event loop for each, with all
that follows it, costs as much as ten datagrams do.  Reading them a millisecond later, together, halves the processor time.  A
slow flow has nothing to gather, a conversation of questions and answers must not wait, and a very fast flow fills its batches
by itself.  Nor is there a pause where it would be felt: on a short path the acknowledgements of an upload would take several
times as long, and a flow that grows with each of them (CUBIC) would get a third of the line.
"""

from __future__ import annotations

import math
from typing import Final

# Ours.
PAUSE: Final = 0.001
"""Seconds between a datagram and the reading of it."""
FROM_RATE: Final = 4000.0
"""Datagrams a second; questions and answers in turn do not get there."""
BELOW_BATCH: Final = 32
"""Datagrams a wake-up."""
SHORT_PATH: Final = 10 * PAUSE
"""Seconds there and back."""
PERIOD: Final = 0.01
"""Seconds that a judgement rests on, at least."""


class Gathering:
    """`wanted` may be read at any time."""

    def __init__(self) -> None:
        self.wanted = False
        self._since = 0.0
        self._wakeups = 0
        self._received = 0
        self._nearest = math.inf

    def note(self, received: int, nearest: float, now: float) -> None:
        """A wake-up has brought the number of all datagrams so far to `received`, from senders of whom the nearest is so many
        seconds away, there and back."""
        self._wakeups += 1
        self._nearest = min(self._nearest, nearest)
        elapsed = now - self._since
        if elapsed < PERIOD:
            return
        count = received - self._received
        is_quick, is_split = count >= FROM_RATE * elapsed, count < BELOW_BATCH * self._wakeups
        self.wanted = is_quick and is_split and self._nearest >= SHORT_PATH
        self._since, self._wakeups, self._received, self._nearest = now, 0, received, math.inf
