"""A TCP connection inside this process: two ends, each an `easytier_hooks.TcpConnection`, with a bounded buffer for each way.

For flows that begin or end in the program that runs the node (`embedding`).  At most 256 KiB wait in each direction; then
`send` waits, as it does with a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from easytier_hooks.services import Endpoint
from easytier_hooks.streams import TcpConnection

# Ours.
BUFFER_BYTES: Final = 262_144


class PipeEnd(TcpConnection):
    """One end.  `anyio.abc.SocketAttribute` tells the addresses of both, as (text, port)."""

    def __init__(self, incoming: _Way, outgoing: _Way, local: Endpoint, remote: Endpoint) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._local = str(local[0]), local[1]
        self._remote = str(remote[0]), remote[1]
        self._closed = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.local_address: lambda: self._local,
            SocketAttribute.local_port: lambda: self._local[1],
            SocketAttribute.remote_address: lambda: self._remote,
            SocketAttribute.remote_port: lambda: self._remote[1],
        }

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """See `TcpConnection`."""
        await checkpoint()
        way = self._incoming
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if way.was_reset:
                raise anyio.BrokenResourceError from ConnectionResetError("connection reset")
            if way.data:
                data = bytes(way.data[:max_bytes])
                del way.data[:max_bytes]
                way.notify()
                return data
            if way.finished:
                raise anyio.EndOfStream
            await way.changed.wait()

    async def send(self, item: bytes) -> None:
        """Return once all of it is in the buffer; raises BrokenResourceError or ClosedResourceError."""
        await checkpoint()
        way, rest = self._outgoing, memoryview(item)
        while True:
            if self._closed or way.finished:
                raise anyio.ClosedResourceError
            if way.abandoned:
                raise anyio.BrokenResourceError
            room = BUFFER_BYTES - len(way.data)
            if room and rest:
                way.data += rest[:room]
                rest = rest[room:]
                way.notify()
            if not rest:
                return
            await way.changed.wait()

    async def send_eof(self) -> None:
        """End our direction; raises ClosedResourceError after `aclose`."""
        await checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        self._outgoing.finish()

    async def aclose(self) -> None:
        """Close; the other end still gets what waits for it, and cannot send any more."""
        self._close()
        await checkpoint()

    def reset(self) -> None:
        """See `TcpConnection`."""
        if not self._closed:
            self._outgoing.was_reset = True
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._outgoing.finish()
        self._incoming.abandon()


class _Way:
    """The bytes under way in one direction."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.finished = False
        """Nothing more will be sent."""
        self.abandoned = False
        """Nothing more will be read."""
        self.was_reset = False
        self.changed = anyio.Event()
        """Set at the next change; another one then takes its place."""

    def finish(self) -> None:
        self.finished = True
        self.notify()

    def abandon(self) -> None:
        self.abandoned = True
        self.data.clear()
        self.notify()

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


def pipe(source: Endpoint, destination: Endpoint) -> tuple[PipeEnd, PipeEnd]:
    """The ends at `source` and at `destination`."""
    there, back = _Way(), _Way()
    return PipeEnd(back, there, source, destination), PipeEnd(there, back, destination, source)
