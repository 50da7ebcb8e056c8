"""What an application is told of a connection that comes to nothing: the TCP RST of a closed port, or the ICMP error of a
router that has no way to the destination.  Pure, sans-IO."""

from __future__ import annotations

import struct
from typing import Final

from easytier_host.flows import ACK, FIN, RST, SYN, segment_key
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.nic.offload import ones_complement_sum

_TCP: Final = 6
# Wire: RFC 792 and RFC 4443 section 3.1: "destination unreachable", the host or address.
_ICMP: Final = 1
_ICMP_UNREACHABLE: Final = (3, 1)
_ICMPV6: Final = 58
_ICMPV6_UNREACHABLE: Final = (1, 3)
_QUOTED_BYTES: Final = 8
"""Of the segment, after the IP header: with them the kernel knows whose it is."""


def reset_for(frame: bytes) -> bytes:
    """The answer to the segment in a device frame (RFC 9293 section 3.10.7.1), as a device frame with finished checksums.

    Raises ValueError if the frame holds no unfragmented TCP segment.
    """
    found = segment_key(frame)
    if found is None:
        raise ValueError("not a TCP segment")
    tcp = found[1]
    source, destination, sequence, acknowledged = struct.unpack_from(">HHII", frame, tcp)
    flags = frame[tcp + 13]
    if flags & ACK:
        answer = struct.pack(">HHIIBBHHH", destination, source, acknowledged, 0, 0x50, RST, 0, 0, 0)
    else:
        size = max(0, len(frame) - tcp - (frame[tcp + 12] >> 4) * 4)
        next_sequence = (sequence + size + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFF_FFFF
        answer = struct.pack(">HHIIBBHHH", destination, source, 0, next_sequence, 0x50, RST | ACK, 0, 0, 0)
    addresses, header = _back(frame, _TCP, len(answer))
    checksum = _checksum(addresses + struct.pack(">HH", _TCP, len(answer)) + answer)
    return bytes(VNET_HEADER_SIZE) + header + answer[:16] + checksum + answer[18:]


def unreachable_for(frame: bytes) -> bytes:
    """The ICMP error that says of the segment in a device frame that its destination cannot be reached, as a device frame.

    It comes from the destination's own address, as no router is known.  Raises ValueError as `reset_for`.
    """
    found = segment_key(frame)
    if found is None:
        raise ValueError("not a TCP segment")
    quoted = frame[VNET_HEADER_SIZE : found[1] + _QUOTED_BYTES]
    is_ipv4 = frame[VNET_HEADER_SIZE] >> 4 == 4
    protocol, (kind, code) = (_ICMP, _ICMP_UNREACHABLE) if is_ipv4 else (_ICMPV6, _ICMPV6_UNREACHABLE)
    error = struct.pack(">BBHI", kind, code, 0, 0) + quoted
    addresses, header = _back(frame, protocol, len(error))
    checksum = _checksum(error if is_ipv4 else addresses + struct.pack(">II", len(error), protocol) + error)
    return bytes(VNET_HEADER_SIZE) + header + error[:2] + checksum + error[4:]


def _back(frame: bytes, protocol: int, size: int) -> tuple[bytes, bytes]:
    """The addresses and the IP header of a packet with a payload of `size` from the frame's destination to its source."""
    if frame[VNET_HEADER_SIZE] >> 4 == 4:
        addresses = frame[26:30] + frame[22:26]
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, 64, protocol, 0) + addresses
        return addresses, header[:10] + _checksum(header) + header[12:]
    addresses = frame[34:50] + frame[18:34]
    return addresses, struct.pack(">IHBB", 0x6000_0000, size, protocol, 64) + addresses


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    return (0xFFFF - ones_complement_sum(data)).to_bytes(2, "big")
