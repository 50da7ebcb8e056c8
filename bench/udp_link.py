"""A link with a delay, losses and a rate between two UDP sockets on loopback: no root, no device.

Datagrams that come to `address` go on to `target`, those of `target` back to whoever sent last; both ways through a `Pipe` of
`bench.link`.  For the demo and for tests of whole nodes in one process.
"""

from __future__ import annotations

import math
import socket
from typing import Final

import anyio

from bench.link import LinkOptions, Pipe

READ_BYTES: Final = 65_536
READS_PER_TURN: Final = 128
BUFFER_BYTES: Final = 4 << 20


class UdpLink:
    """One link.  `run` carries it until it is cancelled."""

    def __init__(self, target: tuple[str, int], options: LinkOptions) -> None:
        self._target = target
        self._visitor: tuple[str, int] | None = None
        self._near, self._far = _socket(), _socket()
        self.there = Pipe(options, options.seed)
        self.back = Pipe(options, options.seed + 1)
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

    async def _wait(self) -> None:
        """Return when a socket has something, or a datagram is due."""
        due = min(self.there.next_due() or math.inf, self.back.next_due() or math.inf)
        with anyio.CancelScope(deadline=due):
            async with anyio.create_task_group() as tasks:

                async def one(sock: socket.socket) -> None:
                    await anyio.wait_readable(sock)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(one, self._near)
                tasks.start_soon(one, self._far)

    def _read(self, sock: socket.socket, pipe: Pipe, *, keep_sender: bool) -> None:
        now = anyio.current_time()
        for _ in range(READS_PER_TURN):
            try:
                datagram, sender = sock.recvfrom(READ_BYTES)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if keep_sender:
                self._visitor = sender
            pipe.offer(datagram, now)


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
