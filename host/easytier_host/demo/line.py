"""A line with a rate, a delay and losses between two UDP sockets on loopback: no root, no device.

Datagrams that come to `address` go on to `target`, those of `target` back to whoever sent last.  Each direction in this order:

    arrives -> lost? -> queue of `queue_bytes`, drop tail -> leaves at `rate_bits` -> `delay` -> delivered
"""

from __future__ import annotations

import math
import random
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final

import anyio

READ_BYTES: Final = 65_536
READS_PER_TURN: Final = 128
BUFFER_BYTES: Final = 4 << 20
LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Line:
    """The properties of both directions: bits a second, seconds one way, share lost, bytes that wait for the rate."""

    rate_bits: float
    delay: float
    loss: float
    queue_bytes: int


class Direction:
    """One way of a line, without clock and socket; `seed` fixes which datagrams are lost, by their order."""

    def __init__(self, line: Line, seed: int) -> None:
        self.lost = 0
        self.overflowed = 0
        self.delay = line.delay
        self._line = line
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()

    def offer(self, datagram: bytes, now: float) -> None:
        """Take a datagram that arrived at `now`; it is lost, dropped, or due later."""
        line = self._line
        if self._random.random() < line.loss:
            self.lost += 1
            return
        start = max(now, self._free_at)
        if (start - now) * line.rate_bits / 8 + len(datagram) > line.queue_bytes:
            self.overflowed += 1
            return
        self._free_at = start + len(datagram) * 8 / line.rate_bits
        self._under_way.append((self._free_at + line.delay, datagram))

    def due(self, now: float) -> list[bytes]:
        """The datagrams whose time has come, in order."""
        found = []
        while self._under_way and self._under_way[0][0] <= now:
            found.append(self._under_way.popleft()[1])
        return found

    def queued(self, now: float) -> float:
        """Seconds for which what came last still waits for the rate."""
        return max(0.0, self._free_at - now)

    def next_due(self) -> float:
        """When the next datagram is due; infinity when there is none."""
        return self._under_way[0][0] if self._under_way else math.inf


class BadLine:
    """One line to `target`.  `run` carries it until it is cancelled."""

    def __init__(self, target: tuple[str, int], line: Line, seed: int = 1) -> None:
        self._target = target
        self._visitor: tuple[str, int] | None = None
        self._near, self._far = _socket(), _socket()
        self.there = Direction(line, seed)
        self.back = Direction(line, seed + 1)
        self.address: tuple[str, int] = self._near.getsockname()

    async def run(self) -> None:
        """Carry for ever; closes the sockets at the end."""
        try:
            while True:
                await self._wait()
                self._read(self._near, self.there, keep_sender=True)
                self._read(self._far, self.back, keep_sender=False)
                now = anyio.current_time()
                for datagram in self.there.due(now):
                    _send(self._far, datagram, self._target)
                for datagram in self.back.due(now):
                    if self._visitor is not None:
                        _send(self._near, datagram, self._visitor)
        finally:
            self._near.close()
            self._far.close()

    async def rested(self) -> None:
        """Return once both queues are empty and what was in them has had a round trip."""
        while any(way.queued(anyio.current_time()) for way in (self.there, self.back)):  # noqa: ASYNC110 - the clock empties it
            await anyio.sleep(LOOK_SECONDS)
        await anyio.sleep(2 * self.there.delay)

    async def _wait(self) -> None:
        """Return when a socket has something, or a datagram is due."""
        with anyio.CancelScope(deadline=min(self.there.next_due(), self.back.next_due())):
            async with anyio.create_task_group() as tasks:

                async def one(sock: socket.socket) -> None:
                    await anyio.wait_readable(sock)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(one, self._near)
                tasks.start_soon(one, self._far)

    def _read(self, sock: socket.socket, direction: Direction, *, keep_sender: bool) -> None:
        now = anyio.current_time()
        for _ in range(READS_PER_TURN):
            try:
                datagram, sender = sock.recvfrom(READ_BYTES)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if keep_sender:
                self._visitor = sender
            direction.offer(datagram, now)


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    return sock


def _send(sock: socket.socket, datagram: bytes, target: tuple[str, int]) -> None:
    try:
        sock.sendto(datagram, target)
    except (BlockingIOError, ConnectionRefusedError):
        return
