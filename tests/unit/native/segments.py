"""TCP packets to make and to read, with checksums as RFC 1071 describes them, word by word."""

from __future__ import annotations

import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
VNET_HEADER = struct.Struct("<BBHHHH")

CLIENT = (bytes([10, 0, 0, 1]), 40000)
SERVER = (bytes([10, 0, 0, 2]), 80)
CLIENT6 = (bytes.fromhex("fd00" + 13 * "00" + "01"), 40000)
SERVER6 = (bytes.fromhex("fd00" + 13 * "00" + "02"), 80)

Endpoint = tuple[bytes, int]


def ones_complement_sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack(">H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Tcp:
    """One TCP packet; sizes in bytes, `window` as on the wire."""

    source: Endpoint
    destination: Endpoint
    flags: int
    sequence: int = 0
    acknowledgement: int = 0
    window: int = 65_535
    payload: bytes = b""
    options: bytes = b""
    checksum: int = 0

    def pack(self, *, protocol: int = 6, fragment: int = 0x4000) -> bytes:
        """The IP packet with right checksums."""
        offset = (20 + len(self.options)) << 10
        header = struct.pack(
            ">HHIIHHHH",
            self.source[1],
            self.destination[1],
            self.sequence,
            self.acknowledgement,
            offset | self.flags,
            self.window,
            0,
            0,
        )
        segment = header + self.options + self.payload
        addresses = self.source[0] + self.destination[0]
        checksum = 0xFFFF - ones_complement_sum(addresses + struct.pack(">HH", protocol, len(segment)) + segment)
        segment = segment[:16] + struct.pack(">H", checksum) + segment[18:]
        if len(self.source[0]) == 16:
            return struct.pack(">IHBB", 6 << 28, len(segment), protocol, 64) + addresses + segment
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, fragment, 64, protocol, 0) + addresses
        return ip[:10] + struct.pack(">H", 0xFFFF - ones_complement_sum(ip)) + ip[12:] + segment


def parse(packet: bytes) -> Tcp:
    """The fields of a packet that must be well-formed."""
    if packet[0] >> 4 == 4:
        start, protocol = 4 * (packet[0] & 15), packet[9]
        source, destination = packet[12:16], packet[16:20]
        assert struct.unpack_from(">H", packet, 2)[0] == len(packet)
        assert ones_complement_sum(packet[:start]) == 0xFFFF
    else:
        start, protocol = 40, packet[6]
        source, destination = packet[8:24], packet[24:40]
        assert struct.unpack_from(">H", packet, 4)[0] == len(packet) - 40
    assert protocol == 6
    fields = struct.unpack_from(">HHIIHHHH", packet, start)
    data = start + (fields[4] >> 12) * 4
    return Tcp(
        source=(source, fields[0]),
        destination=(destination, fields[1]),
        flags=fields[4] & 0x1FF,
        sequence=fields[2],
        acknowledgement=fields[3],
        window=fields[5],
        options=packet[start + 20 : data],
        payload=packet[data:],
        checksum=fields[6],
    )


def pseudo_sum(packet: bytes) -> int:
    """What the checksum field of an unfinished TCP or UDP packet holds."""
    if packet[0] >> 4 == 4:
        start, protocol, addresses = 4 * (packet[0] & 15), packet[9], packet[12:20]
    else:
        start, protocol, addresses = 40, packet[6], packet[8:40]
    return ones_complement_sum(addresses + struct.pack(">HH", protocol, len(packet) - start))


def is_intact(packet: bytes) -> bool:
    """Whether the checksums of the IP header and of TCP or UDP are right."""
    start = 4 * (packet[0] & 15) if packet[0] >> 4 == 4 else 40
    header = packet[0] >> 4 == 6 or ones_complement_sum(packet[:start]) == 0xFFFF
    return header and ones_complement_sum(struct.pack(">H", pseudo_sum(packet)) + packet[start:]) == 0xFFFF
