"""What a node that stops says more than once, since nobody answers for it afterwards: how its flows have ended.  Sans-IO.

While a node runs, a peer that misses an RST is told again by the answer to whatever it sends.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from easytier_kcp_plugin.kcp.header import PacketType

# Ours.
MEMORY: Final = 1.0
"""Seconds for which RSTs are kept: a node that drains resets what is left just before it stops."""
MAX_KEPT: Final = 16_384
"""Beyond, the first ones are forgotten: they are said once."""


class LastWords:
    """Of one endpoint."""

    def __init__(self) -> None:
        self._new: list[tuple[int, PacketType, bytes]] = []
        self._kept: deque[tuple[float, int, PacketType, bytes]] = deque(maxlen=MAX_KEPT)

    def note(self, peer_id: int, packet_type: PacketType, payload: bytes) -> None:
        """An RST is on its way; `keep` follows."""
        self._new.append((peer_id, packet_type, payload))

    def keep(self, now: float) -> None:
        """What was noted was said at this time."""
        if not self._new:
            return
        while self._kept and now - self._kept[0][0] >= MEMORY:
            self._kept.popleft()
        self._kept.extend((now, *word) for word in self._new)
        self._new.clear()

    def recall(self, now: float) -> dict[tuple[int, PacketType], list[bytes]]:
        """The payloads of the last second, by peer and type."""
        words: dict[tuple[int, PacketType], list[bytes]] = {}
        for said_at, peer_id, packet_type, payload in self._kept:
            if now - said_at < MEMORY:
                words.setdefault((peer_id, packet_type), []).append(payload)
        return words
