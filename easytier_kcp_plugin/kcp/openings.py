"""When SYNs may leave for one peer, so that a stock acceptor loses no conversation.  Sans-IO; `endpoint.py` has one per peer.

Stock's accept queue holds four conversations and loses further ones without a word (data plane 5.4).  SYNs to a peer that
is not known to be of our kind therefore leave apart.  On a *stream* (an underlay of TCP) that is not enough: what was sent
apart arrives together after each loss.  There only so many openings are under way at a time, from the SYN to the first sign
that the peer has taken the third packet in; the others wait for one of them to end, in the order in which they came.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Final, Generic, TypeVar

# Ours.  Times in seconds.
BURST: Final = 4
"""SYNs that may leave at once: as many as the accept queue holds."""
GAP: Final = 0.003
"""Between SYNs after that: time enough for stock to take one off its queue."""
AGAIN_GAP: Final = 0.02
"""The same for flows that it has lost so."""
STREAM_OPENINGS: Final = 16
"""Under way at a time on a stream.  Half of them wait for their SYN|ACK, and stock takes about eight third packets at once."""

Opening = TypeVar("Opening")


class Openings(Generic[Opening]):
    """Waiting ones are bounded by the cap on sessions."""

    def __init__(self) -> None:
        self._slot = -math.inf
        self._under_way: dict[Opening, None] = {}
        self._waiting: dict[Opening, None] = {}

    def begin(self, opening: Opening, now: float, *, stream: bool, again: bool) -> float:
        """When the SYN of `opening` may leave; infinite if it has to wait until `admit` names it.

        `again`: stock has lost it before.
        """
        if stream and len(self._under_way) >= STREAM_OPENINGS:
            self._waiting[opening] = None
            return math.inf
        self._under_way[opening] = None
        gap = AGAIN_GAP if again and not stream else GAP
        self._slot = max(self._slot, now) + gap
        return max(now, self._slot - BURST * gap)

    def end(self, opening: Opening) -> None:
        """It is served, or over; `admit` is to be called.  Twice is as once."""
        self._waiting.pop(opening, None)
        self._under_way.pop(opening, None)

    def admit(self, *, every: bool) -> list[Opening]:
        """Those that wait no longer, for which `begin` is to be called again.  `every`: the peer turned out to lose none."""
        room = len(self._waiting) if every else max(0, STREAM_OPENINGS - len(self._under_way))
        admitted = list(islice(self._waiting, room))
        for opening in admitted:
            del self._waiting[opening]
        return admitted
