"""A network device without a kernel: tests and embedding programs put packets in and take out what the node delivered.

Nothing is joined or segmented here; frames pass as they are given, packets get an empty virtio header.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import anyio
import anyio.lowlevel

from easytier_host.nic.base import VNET_HEADER_SIZE, Nic, NicError
from easytier_host.nic.offload import PLAIN_VNET_HEADER

QUEUE_FRAMES: Final = 1024
"""Frames kept each way; what is in excess pushes out the oldest."""
BATCH_FRAMES: Final = 64


class MemoryNic(Nic):
    """Two bounded queues of device frames, towards the node and from it; a full one drops its oldest frame and counts it."""

    def __init__(self, name: str = "memory", mtu: int = 1360) -> None:
        self.name = name
        self.mtu = mtu
        self._incoming: deque[bytes] = deque()
        self._outgoing: deque[bytes] = deque()
        self._changed = anyio.Event()
        self._closed = False
        self._dropped = 0

    def inject_frames(self, frames: Sequence[bytes]) -> None:
        """Let the node read `frames` (a virtio header and a packet each); NicError after `close`."""
        if self._closed:
            raise NicError(f"network device {self.name} is closed")
        self._append(self._incoming, frames)

    def inject_packets(self, packets: Sequence[bytes]) -> None:
        """Let the node read whole IP packets with finished checksums; NicError after `close`."""
        self.inject_frames([PLAIN_VNET_HEADER + packet for packet in packets])

    async def wait_written(self) -> None:
        """Return when the node has delivered something that was not taken yet; NicError once closed and empty."""
        await self._wait(self._outgoing)

    def take_frames(self) -> list[bytes]:
        """All device frames that the node has delivered since the last call, oldest first."""
        frames = list(self._outgoing)
        self._outgoing.clear()
        return frames

    def take_packets(self) -> list[bytes]:
        """`take_frames` without the virtio headers."""
        return [frame[VNET_HEADER_SIZE:] for frame in self.take_frames()]

    async def wait_readable(self) -> None:
        await self._wait(self._incoming)

    def read_batch(self) -> list[bytes]:
        if self._closed:
            raise NicError(f"network device {self.name} is closed")
        return [self._incoming.popleft() for _ in range(min(BATCH_FRAMES, len(self._incoming)))]

    def join(self, packets: Sequence[bytes]) -> list[bytes]:
        return [PLAIN_VNET_HEADER + packet for packet in packets]

    def write_frames(self, frames: Sequence[bytes]) -> None:
        whole = [frame for frame in frames if not self._closed and _holds_ip(frame)]
        self._dropped += len(frames) - len(whole)
        self._append(self._outgoing, whole)

    @property
    def dropped_packets(self) -> int:
        """Packets that were not IP, came after `close`, or were pushed out of a full queue of either side."""
        return self._dropped

    def close(self) -> None:
        self._closed = True
        self._incoming.clear()
        self._wake()

    def _append(self, queue: deque[bytes], frames: Sequence[bytes]) -> None:
        queue.extend(frames)
        while len(queue) > QUEUE_FRAMES:
            queue.popleft()
            self._dropped += 1
        self._wake()

    async def _wait(self, queue: deque[bytes]) -> None:
        while not queue:
            if self._closed:
                raise NicError(f"network device {self.name} is closed")
            await self._changed.wait()
        await anyio.lowlevel.checkpoint()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _holds_ip(frame: bytes) -> bool:
    return len(frame) > VNET_HEADER_SIZE and frame[VNET_HEADER_SIZE] >> 4 in (4, 6)
