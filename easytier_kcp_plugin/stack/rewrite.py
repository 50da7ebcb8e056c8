"""TCP headers as stacks need them: changing addresses and ports, with their checksums.  Pure functions, no state and no I/O.

A *device frame* is a 10-byte virtio-net header and one IPv4 packet or super-packet.  Checksums are ones'-complement sums, so a
change of header words changes them by a constant (RFC 1624), whatever the payload: the work per frame is one copy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

VNET_HEADER_SIZE: Final = 10
NEEDS_CSUM: Final = 1
_UINT16: Final = struct.Struct(">H")
_ENDS: Final = struct.Struct(">4s4sHH")

SYN: Final = 0x02
ACK: Final = 0x10


@dataclass(frozen=True, slots=True)
class Ends:
    """Source and destination of a TCP segment."""

    source_ip: IPv4Address
    source_port: int
    destination_ip: IPv4Address
    destination_port: int

    @property
    def words(self) -> bytes:
        """The twelve bytes as they stand in a packet without IP options: both addresses, both ports."""
        return _ENDS.pack(self.source_ip.packed, self.destination_ip.packed, self.source_port, self.destination_port)

    def reversed(self) -> Ends:
        """The same connection's other direction."""
        return Ends(self.destination_ip, self.destination_port, self.source_ip, self.source_port)


class Rewriter:
    """Turns segments between `old` ends into segments between `new` ends."""

    def __init__(self, old: Ends, new: Ends) -> None:
        self._addresses = new.words[:8]
        self._ports = new.words[8:]
        self._address_change = (_sum(new.words[:8]) - _sum(old.words[:8])) % 0xFFFF
        self._change = (_sum(new.words) - _sum(old.words)) % 0xFFFF

    def __call__(self, frame: bytes) -> bytes:
        """The rewritten device frame.  The caller has checked that it holds a whole TCP header (`tcp_flags`)."""
        tcp = VNET_HEADER_SIZE + (frame[VNET_HEADER_SIZE] & 15) * 4
        (ip_checksum,) = _UINT16.unpack_from(frame, 20)
        (checksum,) = _UINT16.unpack_from(frame, tcp + 16)
        # With NEEDS_CSUM the field holds the sum of the pseudo-header alone, not its complement.
        partial = frame[0] & NEEDS_CSUM
        checksum = (checksum + self._address_change) % 0xFFFF if partial else _adjusted(checksum, self._change)
        return b"".join(
            (
                frame[:20],
                _UINT16.pack(_adjusted(ip_checksum, self._address_change)),
                self._addresses,
                frame[30:tcp],
                self._ports,
                frame[tcp + 4 : tcp + 16],
                _UINT16.pack(checksum),
                frame[tcp + 18 :],
            )
        )


def tcp_flags(frame: bytes) -> int | None:
    """The TCP flags of a device frame, None if it does not hold an unfragmented IPv4 packet with a whole TCP header."""
    if len(frame) < VNET_HEADER_SIZE + 40 or frame[10] >> 4 != 4 or frame[19] != 6:
        return None
    tcp = VNET_HEADER_SIZE + (frame[10] & 15) * 4
    if tcp < 30 or frame[16] & 0x3F or frame[17] or len(frame) < tcp + 20:
        return None
    return frame[tcp + 13]


def syn_sequence(frame: bytes) -> bytes | None:
    """The sequence number, as it stands there, of a TCP SYN that begins a connection; None if the device frame is none.

    IPv6 as well, without extension headers.
    """
    if len(frame) < VNET_HEADER_SIZE + 40:
        return None
    tcp = VNET_HEADER_SIZE + (40 if frame[VNET_HEADER_SIZE] >> 4 == 6 else (frame[VNET_HEADER_SIZE] & 15) * 4)
    if len(frame) < tcp + 20 or frame[tcp + 13] & (SYN | ACK) != SYN:
        return None
    return frame[tcp + 4 : tcp + 8]


def tcp_sequence(frame: bytes) -> int:
    """The sequence number of a device frame that holds a whole TCP header (`tcp_flags`)."""
    tcp = VNET_HEADER_SIZE + (frame[VNET_HEADER_SIZE] & 15) * 4
    return int.from_bytes(frame[tcp + 4 : tcp + 8], "big")


def _adjusted(checksum: int, change: int) -> int:
    """A finished checksum after its data grew by `change`."""
    return _complement((0xFFFF - checksum + change) % 0xFFFF)


def _complement(total: int) -> int:
    return 0xFFFF - total


def _sum(data: bytes) -> int:
    return int.from_bytes(data, "big") % 0xFFFF
