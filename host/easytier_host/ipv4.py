"""IPv4 packets and UDP datagrams, built and read (RFC 791, RFC 768), for those that end packets inside this process.  Pure
functions.

The data path does not need this: it passes packets on without looking far into them.  Called by `echo` and `subnet/`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from easytier_host.nic.offload import ones_complement_sum

# Wire.
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
HEADER_SIZE: Final = 20
DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET_MASK: Final = 0x1FFF
MAX_PACKET: Final = 65_535
_DEFAULT_TTL: Final = 64

_HEADER: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
_UINT16: Final = struct.Struct("!H")


class UdpDatagram(NamedTuple):
    """A datagram that was read."""

    source_port: int
    destination_port: int
    data: bytes


def checksum(data: bytes) -> int:
    """The checksum field for `data`, in which that field is 0 (RFC 1071)."""
    return 0xFFFF - ones_complement_sum(data) % 0xFFFF


def build(
    source: bytes, destination: bytes, protocol: int, payload: bytes, *, identification: int = 0, fragment: int = DONT_FRAGMENT
) -> bytes:
    """A packet without options; addresses are packed, `fragment` is the field of flags and offset.

    Raises ValueError above 65535 bytes.
    """
    size = HEADER_SIZE + len(payload)
    if size > MAX_PACKET:
        raise ValueError(f"{len(payload)} bytes do not fit an IPv4 packet")
    header = _HEADER.pack(0x45, 0, size, identification, fragment, _DEFAULT_TTL, protocol, 0, source, destination)
    return header[:10] + _UINT16.pack(checksum(header)) + header[12:] + payload


def payload_of(packet: bytes) -> bytes | None:
    """What a whole packet carries, padding cut off; None for fragments and for what is no IPv4 packet or a cut one."""
    if len(packet) < HEADER_SIZE or packet[0] >> 4 != 4 or is_fragment(packet):
        return None
    header_size = (packet[0] & 15) * 4
    (total,) = _UINT16.unpack_from(packet, 2)
    if header_size < HEADER_SIZE or not header_size <= total <= len(packet):
        return None
    return packet[header_size:total]


def is_fragment(packet: bytes) -> bool:
    """Whether a packet, of at least 20 bytes, is only a part of one."""
    return bool(packet[6] & 0x3F or packet[7])


def parse_udp(packet: bytes) -> UdpDatagram | None:
    """The datagram in a whole packet; None if there is none, it is cut, or its checksum is wrong."""
    if packet[9:10] != b"\x11":
        return None
    message = payload_of(packet)
    if message is None or len(message) < _UDP.size:
        return None
    source_port, destination_port, length, stored = _UDP.unpack_from(message)
    if not _UDP.size <= length <= len(message):
        return None
    message = message[:length]
    if stored and ones_complement_sum(_pseudo_header(packet[12:16], packet[16:20], length) + message) % 0xFFFF:
        return None
    return UdpDatagram(source_port, destination_port, message[_UDP.size :])


def build_udp(source: bytes, destination: bytes, datagram: UdpDatagram, identification: int = 0) -> bytes:
    """A packet that holds `datagram`, and may be fragmented; raises ValueError above 65535 bytes."""
    length = _UDP.size + len(datagram.data)
    if HEADER_SIZE + length > MAX_PACKET:
        raise ValueError(f"{len(datagram.data)} bytes do not fit a UDP datagram")
    head = _UDP.pack(datagram.source_port, datagram.destination_port, length, 0)
    # 0 would mean that there is no checksum; 0xffff is the same number.
    field = checksum(_pseudo_header(source, destination, length) + head + datagram.data) or 0xFFFF
    return build(
        source, destination, UDP, head[:6] + _UINT16.pack(field) + datagram.data, identification=identification, fragment=0
    )


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + struct.pack("!HH", UDP, length)
