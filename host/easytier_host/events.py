"""What happens in a node, for programs that embed it: a small board with bounded subscriptions."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

import anyio

# Ours.
MAX_WAITING: Final = 256
"""Events kept for one reader; the oldest go first."""

EventKind = Literal["peer_joined", "peer_left", "route_added", "route_removed", "missed"]


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """`peer_joined` and `peer_left` are about neighbours, `route_added` and `route_removed` about all peers.

    `missed` stands for `peer_id` events that a slow reader did not get.
    """

    kind: EventKind
    peer_id: int
    detail: str


class _Reader:
    def __init__(self) -> None:
        self.waiting: deque[NodeEvent] = deque()
        self.missed = 0
        self.news = anyio.Event()

    def put(self, event: NodeEvent) -> None:
        if len(self.waiting) >= MAX_WAITING:
            self.waiting.popleft()
            self.missed += 1
        self.waiting.append(event)
        self.news.set()


class EventBoard:
    """Hands every event to all readers that subscribed before it."""

    def __init__(self) -> None:
        # Weak: a subscription that is dropped without ever being read has no other end.
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._closed = False

    def publish(self, event: NodeEvent) -> None:
        """Tell the readers; never waits."""
        for reader in self._readers:
            reader.put(event)

    def close(self) -> None:
        """Let readers finish what they have and end."""
        self._closed = True
        for reader in self._readers:
            reader.news.set()

    def subscribe(self) -> AsyncIterator[NodeEvent]:
        """All events from this call on."""
        reader = _Reader()
        self._readers.add(reader)
        return self._read(reader)

    async def _read(self, reader: _Reader) -> AsyncIterator[NodeEvent]:
        try:
            while True:
                if reader.missed:
                    missed, reader.missed = reader.missed, 0
                    yield NodeEvent("missed", missed, "this reader was too slow")
                elif reader.waiting:
                    yield reader.waiting.popleft()
                elif self._closed:
                    return
                else:
                    reader.news = anyio.Event()
                    await reader.news.wait()
        finally:
            self._readers.discard(reader)
