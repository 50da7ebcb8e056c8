"""Small things that several modules do to sockets."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any

from easytier_hooks.services import Endpoint


def abort(connection: socket.socket) -> None:
    """Close a socket with RST instead of FIN, so that the other end sees no clean end; no effect on a closed one."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def to_endpoint(address: tuple[Any, ...]) -> Endpoint:
    """What the socket module calls an address; without the interface of a link-local one, IPv4 where it is mapped into IPv6."""
    ip = ip_address(address[0].partition("%")[0])
    return (ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip), address[1]


def send_or_drop(sock: socket.socket, data: bytes, destination: Endpoint) -> None:
    """Send a datagram; what cannot be sent at once, or at all, is dropped, as UDP is."""
    # No room, no route, too large, or the kernel tells of an earlier datagram that was refused.
    with suppress(OSError):
        sock.sendto(data, (str(destination[0]), destination[1]))
