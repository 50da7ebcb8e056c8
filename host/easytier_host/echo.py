"""ICMP echo messages, built and read (RFC 792): what a node without a device answers itself, how it asks, and what the subnet
router changes in those that pass it.  Sans-IO.

IPv4 only, as in stock.  Fragments are for `subnet.fragments` to put together first.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from easytier_host import ipv4
from easytier_host.nic.offload import ones_complement_sum

ECHO_REPLY: Final = 0
ECHO_REQUEST: Final = 8
_ECHO: Final = struct.Struct("!BBHHH")


class Echo(NamedTuple):
    """An echo request or reply; `kind` is one of the two."""

    kind: int
    identifier: int
    sequence: int
    data: bytes

    @classmethod
    def parse(cls, message: bytes) -> Echo | None:
        """From an ICMP message; None if it is another one, cut or damaged."""
        if len(message) < _ECHO.size or message[0] not in (ECHO_REPLY, ECHO_REQUEST) or message[1]:
            return None
        if ones_complement_sum(message) % 0xFFFF:
            return None
        kind, _, _, identifier, sequence = _ECHO.unpack_from(message)
        return cls(kind, identifier, sequence, message[_ECHO.size :])

    def encode(self) -> bytes:
        """The ICMP message."""
        message = _ECHO.pack(self.kind, 0, 0, self.identifier, self.sequence) + self.data
        return message[:2] + struct.pack("!H", ipv4.checksum(message)) + message[4:]


def parse(packet: bytes) -> Echo | None:
    """The echo message in a whole IPv4 packet; None if it holds none."""
    message = ipv4.payload_of(packet) if packet[9:10] == b"\x01" else None
    return None if message is None else Echo.parse(message)


def echo_request(source: IPv4Address, destination: IPv4Address, identifier: int, sequence: int, data: bytes) -> bytes:
    """An IPv4 packet that holds one echo request."""
    message = Echo(ECHO_REQUEST, identifier, sequence, data).encode()
    return ipv4.build(source.packed, destination.packed, ipv4.ICMP, message)


def answer(packet: bytes, own_address: IPv4Address) -> bytes | None:
    """The echo reply to `packet` if it is an echo request to `own_address`, else None."""
    echo = parse(packet)
    if echo is None or echo.kind != ECHO_REQUEST or packet[16:20] != own_address.packed:
        return None
    return ipv4.build(packet[16:20], packet[12:16], ipv4.ICMP, echo._replace(kind=ECHO_REPLY).encode())


def parse_reply(packet: bytes) -> tuple[IPv4Address, int, int] | None:
    """(who answered, identifier, sequence) if `packet` is an echo reply, else None."""
    echo = parse(packet)
    if echo is None or echo.kind != ECHO_REPLY:
        return None
    return IPv4Address(packet[12:16]), echo.identifier, echo.sequence
