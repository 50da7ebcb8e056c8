"""How large the windows between two ends of our kind may grow, what windows are really filled with, and the memory that all of
them share.  Sans-IO.

A window begins at stock's size.  It doubles, at most once an RTT, while it holds fewer than `ROUND_TRIPS` of what passes in an
RTT, so that it does not stall when repairs are lost as well.  Both directions of a conversation have one: the receiver's is
what it advertises, the sender's what it keeps for repetition whatever the peer allows.

What a window has beyond its first size is reserved beforehand in the `WindowMemory` of the node.  If nothing is left there,
those that have not needed their size for a while give it back; if that is not enough, the window stays as it is.

First sizes are not reserved: all of them together are far more than a node should hold, and few are ever filled.  So what has
come and was not read is counted (`hold`), and receive windows shrink as it becomes much: a peer may have as much unread as is
left of the node's, so that one alone gets half, two a third each, and a newcomer always finds as much as any other has.  A flow
may have a part of what its peer may still have, and two segments in any case, so that one whose application reads goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

# Ours.
LARGEST_WINDOW: Final = 16_384
"""Segments, 23 MB: 1 Gbit/s x 50 ms, three times over.  The field `wnd` would hold four times as many."""
MEMORY_SEGMENTS: Final = 65_536
"""Segments that the windows of a node may have beyond stock's, both directions together: 91 MB."""
PATH_SHARE: Final = 2
"""One peer gets no more than one of so many parts."""
ROUND_TRIPS: Final = 6
"""That a window should hold: with 3.3 the loss of a repair does not stall it, with 6 hardly that of two."""
IDLE_AFTER: Final = 10.0
"""Seconds without need after which a grown window may be taken back."""
UNREAD_SEGMENTS: Final = 65_536
"""Segments of first windows that a node may have unread, a peer half of them: 91 MB if they fill packets, 134 MB at most."""
FLOW_SHARE: Final = 32
"""A flow may have one of so many parts of what its peer may still have: 1024 segments as long as half of that is left."""
SMALLEST_LIMIT: Final = 2
"""Segments that each flow may have in any case: an answer to the first brings the second."""


@dataclass(slots=True)
class WindowMemory:
    """Segments that the grown windows of one node may reserve, and have reserved."""

    segments: int = MEMORY_SEGMENTS
    reserved: int = 0
    unread: int = 0
    """Segments that have come and were not read, without those for which there is a reservation."""
    _grown: dict[GrowingWindow, None] = field(default_factory=dict)

    def take(self, window: GrowingWindow, segments: int, now: float) -> bool:
        """Whether `segments` more were reserved for `window`."""
        if not self._fits(window.path, segments):
            for other in [other for other in self._grown if now - other.needed_at > IDLE_AFTER and other.held <= other.first]:
                other.shrink()
            if not self._fits(window.path, segments):
                return False
        self.reserved += segments
        window.path.reserved += segments
        self._grown[window] = None
        return True

    def give_back(self, window: GrowingWindow, segments: int) -> None:
        """All the `segments` that were taken for `window`."""
        if window in self._grown:
            del self._grown[window]
            self.reserved -= segments
            window.path.reserved -= segments

    def _fits(self, path: PathMemory, segments: int) -> bool:
        return self.reserved + segments <= self.segments and path.reserved + segments <= self.segments // PATH_SHARE


@dataclass(slots=True)
class PathMemory:
    """What the windows of the conversations with one peer have reserved."""

    memory: WindowMemory
    reserved: int = 0
    unread: int = 0


@dataclass(slots=True, eq=False)
class GrowingWindow:
    """The window of one direction of a conversation, in segments."""

    path: PathMemory
    first: int
    """Size at the start, and with a stock peer for ever."""
    size: int = 0
    largest: int = 0
    needed_at: float = -math.inf
    """When traffic last needed more than the first size."""
    held: int = 0
    """Segments that fill a receive window."""
    _round_at: float = -math.inf
    _round_from: int = 0
    _unread: int = 0
    """As it is counted in `path`."""

    def __post_init__(self) -> None:
        self.size = self.largest = self.first

    def allow(self, largest: int) -> None:
        """The peer is of our kind and can do with windows of so many segments."""
        self.largest = max(self.first, min(largest, LARGEST_WINDOW))

    def pass_on(self, number: int, rtt: float, now: float) -> None:
        """`number` segments have come by, read here or sent, gaps included; to be called as they do."""
        elapsed = now - self._round_at
        if elapsed < rtt:
            return
        needed = ROUND_TRIPS * (number - self._round_from) * rtt / elapsed
        self._round_at, self._round_from = now, number
        if needed > self.first:
            self.needed_at = now
        if needed > self.size < self.largest:
            wanted = min(2 * self.size, self.largest)
            if self.path.memory.take(self, wanted - self.size, now):
                self.size = wanted

    def hold(self, segments: int) -> None:
        """So many have come and are unread, in order or not."""
        self.held = segments
        unread = max(0, segments - (self.size - self.first))
        if unread != self._unread:
            self.path.unread += unread - self._unread
            self.path.memory.unread += unread - self._unread
            self._unread = unread

    def limit(self) -> int:
        """Segments that may be unread: `size`, or less where the peer or the node has many."""
        path = self.path
        part = (UNREAD_SEGMENTS - path.memory.unread - path.unread) // FLOW_SHARE
        return self.size if part >= self.first else self.size - self.first + max(part, SMALLEST_LIMIT)

    def shrink(self) -> None:
        """Back to the first size; also what has to be done when the conversation ends."""
        self.path.memory.give_back(self, self.size - self.first)
        self.size = self.first
