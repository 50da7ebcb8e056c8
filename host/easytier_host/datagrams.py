"""UDP ports from which this node sends datagrams for applications: of the kernel, or of our own address in the overlay.

A node with a TUN device needs the first kind only, since the kernel routes through the device.  A node without one makes the
packets itself (`overlay_udp`).  Callers see one face, `DatagramPort`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from easytier_hooks.services import Endpoint
from easytier_host.sockets import send_or_drop, to_endpoint

# Ours.
READS_PER_TURN: Final = 64
LARGEST: Final = 65_535

Receive: TypeAlias = Callable[[Endpoint, bytes], None]
"""Called with the source of a datagram and its data.  Must not block."""


class DatagramPort(Protocol):
    """A port to send from; answers go to the `Receive` that it was opened with."""

    def send(self, data: bytes, destination: Endpoint) -> None:
        """Send one datagram; what cannot be sent at once is dropped, as UDP is."""
        ...

    def close(self) -> None:
        """Give the port back; idempotent."""
        ...


OpenPort: TypeAlias = Callable[[Receive], DatagramPort]
"""Opens a port; raises OSError if there is none to be had."""


class KernelPort:
    """A socket of the kernel for IPv4 or, with `version` 6, IPv6."""

    def __init__(self, receive: Receive, tasks: TaskGroup, version: int = 4) -> None:
        self._receive = receive
        self._socket = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            # Bound now, or nothing could be waited for before the first datagram has left.
            self._socket.bind(("0.0.0.0" if version == 4 else "::", 0))
        except OSError:
            self._socket.close()
            raise
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._run, name="datagram port")

    def send(self, data: bytes, destination: Endpoint) -> None:
        """See `DatagramPort`."""
        send_or_drop(self._socket, data, destination)

    def close(self) -> None:
        """See `DatagramPort`."""
        self._scope.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                while True:
                    await anyio.wait_readable(self._socket)
                    for source, data in read_datagrams(self._socket):
                        self._receive(source, data)
        finally:
            self._socket.close()


def read_datagrams(sock: socket.socket) -> list[tuple[Endpoint, bytes]]:
    """What waits in a socket, at most 64 datagrams."""
    found: list[tuple[Endpoint, bytes]] = []
    for _ in range(READS_PER_TURN):
        try:
            data, remote = sock.recvfrom(LARGEST)
        except OSError:
            # Empty; or the kernel tells of an error once and goes on.
            break
        found.append((to_endpoint(remote), data))
    return found
