"""The TCP RST with which a closed port answers.  Pure, sans-IO."""

from __future__ import annotations

import struct
from typing import Final

from easytier_host.flows import ACK, FIN, RST, SYN, segment_key
from easytier_host.nic.base import VNET_HEADER_SIZE
from easytier_host.nic.offload import ones_complement_sum

_TCP: Final = 6


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
    if frame[VNET_HEADER_SIZE] >> 4 == 4:
        addresses = frame[26:30] + frame[22:26]
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(answer), 0, 0x4000, 64, _TCP, 0) + addresses
        header = header[:10] + _checksum(header) + header[12:]
    else:
        addresses = frame[34:50] + frame[18:34]
        header = struct.pack(">IHBB", 0x6000_0000, len(answer), _TCP, 64) + addresses
    checksum = _checksum(addresses + struct.pack(">HH", _TCP, len(answer)) + answer)
    return bytes(VNET_HEADER_SIZE) + header + answer[:16] + checksum + answer[18:]


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    return (0xFFFF - ones_complement_sum(data)).to_bytes(2, "big")
