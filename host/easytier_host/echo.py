"""ICMP echo without a device: what a node with `--no-tun` answers to pings itself, and how it asks (RFC 792, RFC 791).
Sans-IO.

IPv4 only, as in stock.  Fragments are not answered: without a device nothing would put them together.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

from easytier_host.nic.offload import ones_complement_sum

ECHO_REPLY: Final = 0
ECHO_REQUEST: Final = 8
_IP: Final = struct.Struct("!BBHHHBBH4s4s")
_ECHO: Final = struct.Struct("!BBHHH")
_ICMP: Final = 1


def echo_request(source: IPv4Address, destination: IPv4Address, identifier: int, sequence: int, data: bytes) -> bytes:
    """An IPv4 packet that holds one echo request."""
    return _packet(source.packed, destination.packed, ECHO_REQUEST, _ECHO.pack(0, 0, 0, identifier, sequence)[4:] + data)


def answer(packet: bytes, own_address: IPv4Address) -> bytes | None:
    """The echo reply to `packet` if it is an echo request to `own_address`, else None."""
    message = _message(packet)
    if message is None or message[0] != ECHO_REQUEST or packet[16:20] != own_address.packed:
        return None
    return _packet(packet[16:20], packet[12:16], ECHO_REPLY, message[4:])


def parse_reply(packet: bytes) -> tuple[IPv4Address, int, int] | None:
    """(who answered, identifier, sequence) if `packet` is an echo reply, else None."""
    message = _message(packet)
    if message is None or message[0] != ECHO_REPLY:
        return None
    identifier, sequence = struct.unpack_from("!HH", message, 4)
    return IPv4Address(packet[12:16]), identifier, sequence


def _message(packet: bytes) -> bytes | None:
    """The whole, unfragmented, undamaged ICMP message inside, of at least eight bytes."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != _ICMP:
        return None
    header_size = (packet[0] & 15) * 4
    (total,) = struct.unpack_from("!H", packet, 2)
    (fragment,) = struct.unpack_from("!H", packet, 6)
    if header_size < 20 or not header_size + _ECHO.size <= total <= len(packet) or fragment & 0x3FFF:
        return None
    message = packet[header_size:total]
    return message if ones_complement_sum(message) % 0xFFFF == 0 else None


def _packet(source: bytes, destination: bytes, kind: int, rest: bytes) -> bytes:
    """`rest` is identifier, sequence and data."""
    message = struct.pack("!BBH", kind, 0, _checksum(struct.pack("!BBH", kind, 0, 0) + rest)) + rest
    header = _IP.pack(0x45, 0, 20 + len(message), 0, 0x4000, 64, _ICMP, 0, source, destination)
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + message


def _checksum(data: bytes) -> int:
    return 0xFFFF - ones_complement_sum(data) % 0xFFFF
