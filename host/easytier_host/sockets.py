"""Addresses and datagrams of sockets, as several modules need them."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any

from easytier_hooks.services import Endpoint


def to_endpoint(address: tuple[Any, ...]) -> Endpoint:
    """What the socket module calls an address; without the interface of a link-local one, IPv4 where it is mapped into IPv6."""
    ip = ip_address(address[0].partition("%")[0])
    return (ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip), address[1]


def reason_of(error: Exception) -> str:
    """Why, in words alone: of what the system says, without its number."""
    return getattr(error, "strerror", None) or str(error)


def send_or_drop(sock: socket.socket, data: bytes, destination: Endpoint) -> None:
    """Send a datagram; what cannot be sent at once, or at all, is dropped, as UDP is."""
    # No room, no route, too large, or the kernel tells of an earlier datagram that was refused.
    with suppress(OSError):
        sock.sendto(data, (str(destination[0]), destination[1]))
