"""A pair of tunnels in memory: two nodes of one process, for tests and the demonstration.

Frames come out in batches on a later turn of the event loop, never inside `send`, as on a real tunnel; there is no delay and
no loss other than by the cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from easytier_host.packet import MAX_FRAME_SIZE, PEER_HEADER_SIZE
from easytier_host.tunnel.base import Tunnel, TunnelInfo

RING_FRAMES: Final = 1024
"""Frames on their way in one direction; more are dropped."""
CONGESTED_FRAMES: Final = 512
_SHUTDOWN: Final = "this node is shutting down"


def pair(tasks: TaskGroup, first: str = "a", second: str = "b") -> tuple[RingTunnel, RingTunnel]:
    """Two joined tunnels, called `ring://a` and `ring://b`; each delivers in a task of `tasks` and ends with it."""
    left = RingTunnel(TunnelInfo("ring", f"ring://{first}", f"ring://{second}"))
    right = RingTunnel(TunnelInfo("ring", f"ring://{second}", f"ring://{first}"))
    left.join(right, tasks)
    right.join(left, tasks)
    return left, right


class RingTunnel(Tunnel):
    """One end of a pair.  The other end hears of `close` after the frames that were sent before it."""

    def __init__(self, info: TunnelInfo) -> None:
        super().__init__(info)
        self._peer: RingTunnel = self
        self._inbox: list[bytes] = []
        self._ended = False
        self._closed = False
        self._dropped_frames = 0
        self._arrived = anyio.Event()
        self._taken = anyio.Event()

    def join(self, peer: RingTunnel, tasks: TaskGroup) -> None:
        """Send to `peer` from now on, and deliver in `tasks`."""
        self._peer = peer
        tasks.start_soon(self._deliver, name=f"deliver to {self.info.local_url}")

    def send(self, frames: Sequence[bytes]) -> bool:
        """As `Tunnel.send`; frames of a forbidden size are dropped."""
        peer = self._peer
        room = 0 if self._closed or peer.closed else RING_FRAMES - len(peer._inbox)
        kept = [frame for frame in frames if PEER_HEADER_SIZE <= len(frame) <= MAX_FRAME_SIZE][:room]
        self._dropped_frames += len(frames) - len(kept)
        if kept:
            peer._inbox += kept
            peer._arrived.set()
        return not self.congested

    async def wait_writable(self) -> None:
        if not self.congested:
            await anyio.lowlevel.checkpoint()
        while self.congested:
            await self._peer._taken.wait()

    def close(self, reason: str = "closed by this node") -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.clear()
        self._taken.set()
        self._arrived.set()
        self._peer._ended = True
        self._peer._arrived.set()
        # Senders of ours that wait for the other end are let go by their own condition.
        self._peer._pulse_taken()
        self.on_close(reason)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def dropped_frames(self) -> int:
        return self._dropped_frames

    @property
    def congested(self) -> bool:
        return not self._closed and len(self._peer._inbox) >= CONGESTED_FRAMES

    def _pulse_taken(self) -> None:
        self._taken.set()
        self._taken = anyio.Event()

    async def _deliver(self) -> None:
        reason = _SHUTDOWN
        try:
            while not self._closed:
                await self._arrived.wait()
                self._arrived = anyio.Event()
                frames, self._inbox = self._inbox, []
                self._pulse_taken()
                if frames:
                    self.on_frames(frames)
                if self._ended:
                    reason = "closed by the other side"
                    break
        finally:
            self.close(reason)
