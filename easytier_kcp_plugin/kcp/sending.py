"""How many bytes of applications a node takes that peers have not acknowledged.  Sans-IO.

A peer that opens thousands of flows, asks for much in each and acknowledges nothing would have megabytes kept for each of them.
So all that is kept for one peer has a cap, and all that is kept at all; beyond either a flow takes no more than a little, until
that has been acknowledged: it goes on, slowly, and its application waits.
"""

from __future__ import annotations

from typing import Final

from easytier_kcp_plugin.kcp.engine import Engine

# Ours.
NODE_BYTES: Final = 192 << 20
PEER_BYTES: Final = 96 << 20
"""As much as grown windows may have with one peer, and 32 flows beside them that stall with windows of stock's size."""
FLOW_BYTES: Final = 16 << 10
"""Beyond the caps: some segments, so that an acknowledgement brings the next ones."""
WRITABLE_ROOM: Final = 64 << 10
"""A writer that waits is woken for no less, so that it does not wake for each acknowledgement."""


class SendingMemory:
    """What one endpoint keeps, by peer."""

    def __init__(self) -> None:
        self.total = 0
        self.peers: dict[int, int] = {}

    def change(self, peer_id: int, by: int) -> None:
        """So many bytes more, or less."""
        self.total += by
        held = self.peers.pop(peer_id, 0) + by
        if held:
            self.peers[peer_id] = held

    def is_full(self, peer_id: int) -> bool:
        """Whether flows with this peer take but a little."""
        return self.total >= NODE_BYTES or self.peers.get(peer_id, 0) >= PEER_BYTES


class SendingShare:
    """What is kept for one flow."""

    __slots__ = ("_held", "_memory", "_peer_id")

    def __init__(self, memory: SendingMemory, peer_id: int) -> None:
        self._memory = memory
        self._peer_id = peer_id
        self._held = 0

    def note(self, engine: Engine | None) -> None:
        """To be called when bytes may have been taken or acknowledged; without an engine nothing is kept."""
        held = 0 if engine is None else engine.waiting_bytes
        if held != self._held:
            self._memory.change(self._peer_id, held - self._held)
            self._held = held

    def room(self, room: int) -> int:
        """How many bytes the flow may take, if its engine has this much room."""
        return min(room, max(0, FLOW_BYTES - self._held)) if self._memory.is_full(self._peer_id) else room

    def wakes(self, room: int) -> bool:
        """Whether a writer that waits is to be told of this much room."""
        return room >= WRITABLE_ROOM or (room >= FLOW_BYTES // 2 and self._memory.is_full(self._peer_id))
