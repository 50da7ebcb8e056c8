"""Sessions that were asked for and are not yet open: how many there may be, and which gives way to a new one.  Sans-IO.

Such a session may last as long as a dial does, while there is room.  Where its peer, or all peers together, have as many as
there may be, the oldest gives way: of that peer, or of the one that has most.  It has to have had `GIVES_WAY_AFTER`; or, where
all peers together have too many, its peer more than twice as many as the one that asks.  Else the new one finds no room.

What is done for a SYN takes the same time however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import takewhile
from typing import Final, Generic, TypeVar

# Ours.
GIVES_WAY_AFTER: Final = 5.0
"""Seconds.  An opener of our kind has gone over to plain TCP by then, and a stock one has lost its third packet four times."""

Opening = TypeVar("Opening", bound=Hashable)


class HalfOpen(Generic[Opening]):
    """Those of all peers, at most `in_all`, and of each, at most `of_peer`."""

    def __init__(self, of_peer: int, in_all: int) -> None:
        self._of_peer = of_peer
        self._in_all = in_all
        self._since: dict[Opening, float] = {}
        """When each began, the oldest first."""
        self._peers: dict[int, dict[Opening, None]] = {}
        self._by_count: dict[int, dict[int, None]] = {}
        """The peers that have so many."""
        self._most = 0
        """That any peer has."""

    def __len__(self) -> int:
        return len(self._since)

    def has_room(self, peer_id: int) -> bool:
        """Whether one more of this peer may be added."""
        return len(self._since) < self._in_all and len(self._peers.get(peer_id, ())) < self._of_peer

    def gives_way(self, peer_id: int, now: float) -> Opening | None:
        """The one that is to be ended and removed, so that there is room for one of this peer; None if there is none."""
        count = len(self._peers.get(peer_id, ()))
        of = peer_id if count >= self._of_peer else next(iter(self._by_count[self._most]))
        oldest = next(iter(self._peers[of]))
        if now - self._since[oldest] >= GIVES_WAY_AFTER or self._most > 2 * (count + 1):
            return oldest
        return None

    def add(self, opening: Opening, peer_id: int, now: float) -> None:
        """One more of this peer; there has to be room, and `now` must not step back."""
        self._since[opening] = now
        openings = self._peers.setdefault(peer_id, {})
        openings[opening] = None
        self._count(peer_id, len(openings) - 1, len(openings))

    def remove(self, opening: Opening, peer_id: int) -> None:
        """It is open, or over.  Harmless if it was not here."""
        if self._since.pop(opening, None) is None:
            return
        openings = self._peers[peer_id]
        del openings[opening]
        self._count(peer_id, len(openings) + 1, len(openings))
        if not openings:
            del self._peers[peer_id]

    def older_than(self, life: float, now: float) -> list[Opening]:
        """Those that have had so many seconds, the oldest first."""
        return [opening for opening, _ in takewhile(lambda item: item[1] + life <= now, self._since.items())]

    @property
    def oldest_since(self) -> float:
        """When the oldest one began; infinite if there is none."""
        return next(iter(self._since.values()), math.inf)

    def _count(self, peer_id: int, before: int, after: int) -> None:
        if before:
            peers = self._by_count[before]
            del peers[peer_id]
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[peer_id] = None
        if after > self._most or self._most not in self._by_count:
            self._most = after
