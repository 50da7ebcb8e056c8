"""Packets for the device tests, built and checked the slow and plain way, word by word."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

SOURCE = {4: ip_address("10.9.0.2").packed, 6: ip_address("fd00::2").packed}
DESTINATION = {4: ip_address("10.9.0.1").packed, 6: ip_address("fd00::1").packed}
OWN = frozenset(DESTINATION.values())
FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80
NEEDS_CSUM = 1
TCP, UDP, ICMPV6, DESTINATION_OPTIONS = 6, 17, 58, 60


def folded(data: bytes) -> int:
    """The 16-bit ones'-complement sum, as RFC 1071 describes it."""
    data += b"\0" * (len(data) % 2)
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Segment:
    """A TCP segment in an IP packet; `encode` gives its bytes with right checksums."""

    payload: bytes
    version: int = 4
    sequence: int = 1000
    acknowledgement: int = 77
    flags: int = ACK
    window: int = 500
    options: bytes = b""
    ip_options: bytes = b""
    """IPv4: options.  IPv6: body of a destination options header, less its first two bytes."""
    identification: int = 1
    fragment: int = 0x4000
    traffic_class: int = 0
    hop_limit: int = 64
    ports: tuple[int, int] = (40_000, 5201)
    destination: bytes = b""

    def headers(self) -> tuple[bytes, bytes, int]:
        """The IP header, the TCP header without checksum, and the sum of the pseudo-header."""
        tcp = struct.pack(
            ">HHIIBBHHH",
            *self.ports,
            self.sequence,
            self.acknowledgement,
            (5 + len(self.options) // 4) << 4,
            self.flags,
            self.window,
            0,
            0,
        )
        tcp += self.options
        length = len(tcp) + len(self.payload)
        source, destination = SOURCE[self.version], self.destination or DESTINATION[self.version]
        pseudo = folded(source + destination + struct.pack(">II", length, TCP))
        return ip_header(self, source, destination, length), tcp, pseudo

    def encode(self) -> bytes:
        ip, tcp, pseudo = self.headers()
        checksum = folded(struct.pack(">H", pseudo) + tcp + self.payload) ^ 0xFFFF
        return ip + tcp[:16] + struct.pack(">H", checksum) + tcp[18:] + self.payload

    def device_frame(self, size: int, *, ecn: bool = False) -> bytes:
        """The super-packet a kernel would write: segments of `size`, checksum unfinished."""
        ip, tcp, pseudo = self.headers()
        gso_type = (1 if self.version == 4 else 4) | (0x80 if ecn else 0)
        header = struct.pack("<BBHHHH", NEEDS_CSUM, gso_type, len(ip) + len(tcp), size, len(ip), 16)
        return header + ip + tcp[:16] + struct.pack(">H", pseudo) + tcp[18:] + self.payload

    def pieces(self, size: int) -> list[Segment]:
        """What a network card would make of it."""
        count = -(-len(self.payload) // size)
        return [
            replace(
                self,
                payload=self.payload[index * size : (index + 1) * size],
                sequence=(self.sequence + index * size) % 2**32,
                identification=(self.identification + index) % 2**16,
                flags=self.flags & ~(CWR if index else 0) & ~(FIN | PSH if index < count - 1 else 0),
            )
            for index in range(count)
        ]


def ip_header(segment: Segment, source: bytes, destination: bytes, length: int, protocol: int = TCP) -> bytes:
    options = segment.ip_options
    if segment.version == 6:
        extension = struct.pack(">BB", protocol, (len(options) + 2) // 8 - 1) + options if options else b""
        first_word = 6 << 28 | segment.traffic_class << 20 | 0x12345
        next_header = DESTINATION_OPTIONS if extension else protocol
        header = struct.pack(">IHBB", first_word, length + len(extension), next_header, segment.hop_limit)
        return header + source + destination + extension
    header_size = 20 + len(options)
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | header_size // 4,
        segment.traffic_class,
        header_size + length,
        segment.identification,
        segment.fragment,
        segment.hop_limit,
        protocol,
        0,
        source,
        destination,
    )
    header += options
    return header[:10] + struct.pack(">H", folded(header) ^ 0xFFFF) + header[12:]


def udp_frame(payload: bytes, version: int, gso_size: int = 0, *, ports: tuple[int, int] = (5000, 53)) -> bytes:
    """A device frame with a UDP packet whose checksum is unfinished, a super-packet if `gso_size` is given."""
    length = 8 + len(payload)
    source, destination = SOURCE[version], DESTINATION[version]
    ip = ip_header(Segment(b"", version), source, destination, length, UDP)
    pseudo = folded(source + destination + struct.pack(">II", length, UDP))
    header = struct.pack("<BBHHHH", NEEDS_CSUM, 5 if gso_size else 0, len(ip) + 8 if gso_size else 0, gso_size, len(ip), 6)
    return header + ip + struct.pack(">HHHH", *ports, length, pseudo) + payload


def checksums_right(packet: bytes) -> bool:
    """True if the IPv4 header and the TCP, UDP or ICMPv6 checksum verify, and lengths agree with the packet's."""
    if packet[0] >> 4 == 4:
        start = 4 * (packet[0] & 15)
        protocol, addresses = packet[9], packet[12:20]
        if folded(packet[:start]) != 0xFFFF or int.from_bytes(packet[2:4], "big") != len(packet):
            return False
    else:
        start, protocol, addresses = 40, packet[6], packet[8:40]
        if protocol == DESTINATION_OPTIONS:
            protocol, start = packet[40], 48 + 8 * packet[41]
        if int.from_bytes(packet[4:6], "big") != len(packet) - 40:
            return False
    length = len(packet) - start
    if protocol == UDP and int.from_bytes(packet[start + 4 : start + 6], "big") != length:
        return False
    return folded(addresses + struct.pack(">II", length, protocol) + packet[start:]) == 0xFFFF
