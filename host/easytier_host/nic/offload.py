"""Super-packets to packets (`split`) and back (`coalesce`): the work that a network card does in hardware.

Pure functions, no I/O and no state; they run for every packet of a node that has not the native module, which does the same
(`batch.py`).  The device reader calls `split`, the device writer `coalesce`.  Device frames are described in `base`; headers in
RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP) and 768 (UDP).

All checksums are ones'-complement sums (RFC 1071): the data, read as one big-endian number, modulo 65535.  A Python integer
takes the whole payload at once, and folding it to a few hundred bits first is cheaper than dividing all of it (1.8 us against
2.8 us for 1328 bytes).

`coalesce` sums no payload bytes.  Each segment's own checksum says what its payload must sum to, and from these follows
the checksum that the joined packet must have.  It is written complete, without NEEDS_CSUM, so that the kernel verifies it, at
0.05 us a segment where Python takes 1.8 us.  A corrupt segment spoils the joined packet, which the kernel drops as it would
drop the segment alone.  This holds for packets that end at this host.  A packet that the kernel forwards is not verified but
segmented again with new checksums, which would turn corruption into good data: so only packets to the `own` addresses are
joined.  Writing the others one by one (1.2 us each) costs less than summing them here.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence
from typing import Any, Final

from easytier_host.nic.base import VNET_HEADER_SIZE

# Fixed by Linux (include/uapi/linux/virtio_net.h) and by the RFCs.
VNET_HEADER: Final = struct.Struct("<BBHHHH")
NEEDS_CSUM: Final = 1
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

_TCP: Final = 6
_UDP: Final = 17
_WITHOUT_SEGMENTS: Final = frozenset({17, 58})
"""IPv6 next headers, UDP and ICMPv6, behind which no TCP header can follow."""
_UNFRAGMENTED: Final = (b"\x40\x00", b"\x00\x00")
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
_ACK: Final = 0x10
_TCP_FLAGS: Final = 0x0FFF  # reserved bits included
_MAX_PACKET: Final = 65_535

# Chosen by us.
PLAIN_VNET_HEADER: Final = bytes(VNET_HEADER_SIZE)
"""Before a packet that is finished: no checksum to complete, nothing to segment."""
MAX_JOINED_SEGMENTS: Final = 64
"""65535 bytes are 48 segments of the usual size."""
_FOLDS: Final = tuple((bits, (1 << bits) - 1) for bits in (5632, 2816, 1408, 704))
"""Halves of 1408 bytes and so on: whole payloads of common MTUs fold evenly, others still fold rightly."""

_UINT16: Final = struct.Struct(">H")
_IPV4_LENGTH_TO_CHECKSUM: Final = struct.Struct(">HH4sH")
_TCP_SEQUENCE_TO_CHECKSUM: Final = struct.Struct(">I4sHHH")
_UDP_LENGTH_CHECKSUM: Final = struct.Struct(">HH")
# First bytes, IP length, bytes from the fragment field (IPv4) or next header (IPv6) to the TTL, addresses and ports, then TCP.
_IPV4_TCP: Final = struct.Struct(">2sH2x4s2x12sI4sHHH")
_IPV6_TCP: Final = struct.Struct(">4sH2s36sI4sHHH")


def ones_complement_sum(data: bytes | memoryview) -> int:
    """The sum of the big-endian 16-bit words of `data` modulo 65535, an odd last byte being padded with a zero byte."""
    total = int.from_bytes(data, "big")
    for bits, mask in _FOLDS:
        total = (total >> bits) + (total & mask)
    return (total << 8 if len(data) & 1 else total) % 65535


def split(frame: bytes, mtu: int) -> list[bytes]:
    """The whole IP packets with finished checksums that one device frame stands for, in order.

    A super-packet gives segments of the size its virtio header asks for, smaller where a packet would exceed `mtu` (bytes);
    other packets keep their size.  ValueError if the frame is malformed, or a finished super-packet has a wrong checksum.
    """
    if len(frame) < VNET_HEADER_SIZE + 20:
        raise ValueError(f"device frame of {len(frame)} bytes is too short for an IP packet")
    flags, gso_type, _, gso_size, checksum_start, checksum_offset = VNET_HEADER.unpack_from(frame)
    packet = frame[VNET_HEADER_SIZE:]
    version = packet[0] >> 4
    if version != 4 and (version != 6 or len(packet) < 40):
        raise ValueError(f"not an IP packet: {packet[:8].hex()}")
    if gso_type == 0:
        return [_complete_checksum(packet, checksum_start, checksum_offset)] if flags & NEEDS_CSUM else [packet]

    kind = gso_type & ~GSO_ECN
    if kind not in (GSO_UDP_L4, GSO_TCPV4 if version == 4 else GSO_TCPV6):
        raise ValueError(f"segmentation type {gso_type} does not fit IPv{version}")
    protocol = _UDP if kind == GSO_UDP_L4 else _TCP
    transport = _transport_offset(packet, protocol, checksum_start if flags & NEEDS_CSUM else None)
    header_size = transport + (8 if protocol == _UDP else 4 * (packet[transport + 12] >> 4))
    size = min(gso_size, mtu - header_size)
    if size <= 0 or len(packet) <= header_size or (protocol == _TCP and header_size - transport < 20):
        raise ValueError(
            f"super-packet of {len(packet)} bytes, {header_size} of headers, cannot be cut to {gso_size}, MTU {mtu}"
        )
    return _segment(packet, transport, header_size, size, _pseudo_sum(packet, transport, protocol, flags))


def _transport_offset(packet: bytes, protocol: int, checksum_start: int | None) -> int:
    """Where the TCP or UDP header of a super-packet begins; there are at least 20 (TCP) or 8 (UDP) bytes from there on."""
    if packet[0] >> 4 == 4:
        offset = 4 * (packet[0] & 15)
        valid = offset >= 20 and packet[9] == protocol and checksum_start in (None, offset)
    elif checksum_start is None:
        offset = 40
        valid = packet[6] == protocol
    else:
        # Extension headers may lie between; the kernel has walked them.
        offset = checksum_start
        valid = offset >= 40
    if not valid or len(packet) < offset + (8 if protocol == _UDP else 20):
        raise ValueError(f"super-packet without a header of protocol {protocol} where one should be: {packet[:60].hex()}")
    return offset


def _pseudo_sum(packet: bytes, transport: int, protocol: int, flags: int) -> int:
    """The pseudo-header's part of the checksum of each segment, less the length."""
    length = len(packet) - transport
    if flags & NEEDS_CSUM:
        # The field holds it, with the right final destination even behind a routing header.
        field: int = _UINT16.unpack_from(packet, transport + (6 if protocol == _UDP else 16))[0]
        return field - length
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    pseudo = ones_complement_sum(addresses) + protocol
    if (pseudo + length + ones_complement_sum(packet[transport:])) % 65535:
        raise ValueError("super-packet with a wrong checksum")
    return pseudo


def _complete_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """`packet` with the checksum of all from `start` on stored at `start + offset`, which held the pseudo-header's sum."""
    field = start + offset
    if start < 20 or field + 2 > len(packet):
        raise ValueError(f"checksum at {start}+{offset} lies outside of a packet of {len(packet)} bytes")
    # 0 would mean "none" to UDP; 0xffff is the same number to every protocol.
    checksum = -ones_complement_sum(packet[start:]) % 65535 or 0xFFFF
    return b"".join((packet[:field], _UINT16.pack(checksum), packet[field + 2 :]))


def _segment(packet: bytes, transport: int, header_size: int, size: int, pseudo: int) -> list[bytes]:
    """The segments of a super-packet, TCP or UDP by the length of its header; `size` bytes of payload each but the last."""
    header = bytearray(packet[:header_size])
    header_view = memoryview(header)
    ipv4 = packet[0] >> 4 == 4
    tcp = header_size - transport >= 20
    write_ipv4 = _IPV4_LENGTH_TO_CHECKSUM.pack_into
    write_tcp = _TCP_SEQUENCE_TO_CHECKSUM.pack_into
    identification = sequence = offset_flags = window = ipv4_sum = 0
    fragment_to_protocol = acknowledgement = b""
    # Fields that differ between segments are left out of the constant parts of the sums.
    if ipv4:
        _, identification, fragment_to_protocol, _ = _IPV4_LENGTH_TO_CHECKSUM.unpack_from(packet, 2)
        write_ipv4(header, 2, 0, 0, fragment_to_protocol, 0)
        ipv4_sum = ones_complement_sum(header_view[:transport])
    if tcp:
        sequence, acknowledgement, offset_flags, window, _ = _TCP_SEQUENCE_TO_CHECKSUM.unpack_from(packet, transport + 4)
        write_tcp(header, transport + 4, 0, acknowledgement, 0, window, 0)
    else:
        _UDP_LENGTH_CHECKSUM.pack_into(header, transport + 4, 0, 0)
    constant = pseudo + header_size - transport + ones_complement_sum(header_view[transport:])

    (bits1, mask1), (bits2, mask2), (bits3, mask3), (bits4, mask4) = _FOLDS
    from_bytes = int.from_bytes
    join = b"".join
    packets: list[bytes] = []
    append = packets.append
    end = len(packet)
    last = end - 1 - (end - header_size - 1) % size
    length = size
    padding = 8 * (size & 1)
    flags_now = offset_flags & ~_FIN_PSH
    for start in range(header_size, end, size):
        if start == last:
            length = end - start
            padding = 8 * (length & 1)
            flags_now |= offset_flags & _FIN_PSH
        payload = packet[start : start + size]
        total = from_bytes(payload, "big")
        total = (total >> bits1) + (total & mask1)
        total = (total >> bits2) + (total & mask2)
        total = (total >> bits3) + (total & mask3)
        total = ((total >> bits4) + (total & mask4) << padding) + constant + length
        if ipv4:
            packet_size = header_size + length
            checksum = -(ipv4_sum + packet_size + identification) % 65535
            write_ipv4(header, 2, packet_size, identification, fragment_to_protocol, checksum)
            identification = identification + 1 & 0xFFFF
        else:
            _UINT16.pack_into(header, 4, header_size + length - 40)
        if tcp:
            checksum = -(total + sequence + flags_now) % 65535 or 0xFFFF
            write_tcp(header, transport + 4, sequence, acknowledgement, flags_now, window, checksum)
            sequence = sequence + size & 0xFFFFFFFF
            flags_now &= ~_CWR
        else:
            checksum = -(total + length + 8) % 65535 or 0xFFFF
            _UDP_LENGTH_CHECKSUM.pack_into(header, transport + 4, length + 8, checksum)
        append(join((header, payload)))
    return packets


def coalesce(packets: Sequence[bytes], own: Container[bytes]) -> list[bytes]:
    """Device frames for `packets`.

    Runs of TCP segments to `own` addresses (packed, 4 or 16 bytes) become one super-packet each; flows may be interleaved.
    Joined are segments with data that follow each other without a gap and agree in addresses, ports, acknowledgement, window,
    options, TOS, TTL and DF, carry no flag but ACK, PSH and FIN, and are equally long but for a shorter last one; PSH and FIN
    end a run.  Everything else, malformed packets too, passes as it is.  The order within each flow is kept.
    """
    frames: list[_Run | bytes] = []
    open_runs: dict[bytes, _Run] = {}
    for packet in packets:
        size = len(packet)
        if size >= 40 and packet[0] == 0x45 and packet[9] == _TCP:
            fields, transport, uncounted = _IPV4_TCP.unpack_from(packet), 20, 0
        elif size >= 60 and packet[0] >> 4 == 6 and packet[6] == _TCP:
            fields, transport, uncounted = _IPV6_TCP.unpack_from(packet), 40, 40
        else:
            if size >= 40 and packet[0] != 0x45 and packet[6] not in _WITHOUT_SEGMENTS:
                # Options or extension headers may hide a segment of any open flow, which must not overtake it.
                open_runs.clear()
            frames.append(packet)
            continue

        traffic, ip_size, lifetime, flow, sequence, acknowledgement, offset_flags, window, checksum = fields
        run = open_runs.get(flow)
        if run is not None:
            if (
                sequence == run.next_sequence
                and offset_flags & ~_FIN_PSH == run.offset_flags
                and acknowledgement == run.acknowledgement
                and window == run.window
                and run.header_size < size <= run.packet_size
                and size == ip_size + uncounted
                and packet[transport + 18 : run.header_size] == run.options
                and lifetime == run.lifetime
                and traffic == run.traffic
            ):
                run.packets.append(packet)
                contribution = size + sequence + offset_flags + checksum
                # Behind an odd number of bytes the words of a payload straddle those of its own checksum: 256 x swaps them.
                run.sum += contribution << 8 if run.odd and not len(run.packets) & 1 else contribution
                run.next_sequence = sequence + run.payload_size & 0xFFFFFFFF
                if size != run.packet_size or offset_flags & _FIN_PSH or len(run.packets) == run.limit:
                    del open_runs[flow]
                continue
            del open_runs[flow]
        header_size = transport + (offset_flags >> 10 & 0x3C)
        if (
            offset_flags & _TCP_FLAGS == _ACK
            and transport + 20 <= header_size < size == ip_size + uncounted
            and (transport == 40 or lifetime[:2] in _UNFRAGMENTED)
            and (flow[4:8] if transport == 20 else flow[16:32]) in own
        ):
            run = _Run(packet, transport, header_size, fields)
            frames.append(run)
            if run.limit > 1:
                open_runs[flow] = run
        else:
            frames.append(packet)
    return [PLAIN_VNET_HEADER + frame if isinstance(frame, bytes) else frame.join() for frame in frames]


class _Run:
    """TCP segments that will be one super-packet; `sum` is of what differs: packet size, sequence, flags and checksum."""

    def __init__(self, packet: bytes, transport: int, header_size: int, fields: tuple[Any, ...]) -> None:
        traffic, _, lifetime, flow, sequence, acknowledgement, offset_flags, window, checksum = fields
        self.packets = [packet]
        self.transport = transport
        self.header_size = header_size
        self.packet_size = len(packet)
        self.payload_size = len(packet) - header_size
        self.limit = min(MAX_JOINED_SEGMENTS, (_MAX_PACKET - header_size) // self.payload_size)
        self.odd = self.payload_size & 1
        self.traffic: bytes = traffic
        self.lifetime: bytes = lifetime
        self.flow: bytes = flow
        self.first_sequence: int = sequence
        self.next_sequence: int = sequence + self.payload_size & 0xFFFFFFFF
        self.acknowledgement: bytes = acknowledgement
        self.offset_flags: int = offset_flags
        self.window: int = window
        self.options = packet[transport + 18 : header_size]
        self.sum: int = len(packet) + sequence + offset_flags + checksum

    def join(self) -> bytes:
        """The device frame: headers, then each payload."""
        packets = self.packets
        count = len(packets)
        first = packets[0]
        if count == 1:
            return PLAIN_VNET_HEADER + first
        header_size, transport = self.header_size, self.transport
        size = header_size + (count - 1) * self.payload_size + len(packets[-1]) - header_size
        offset_flags = self.offset_flags | packets[-1][transport + 13] & _FIN_PSH
        # A segment's payload sums to -(constant + its contribution) if its checksum is right; the joined checksum follows.
        constant = ones_complement_sum(self.flow + self.acknowledgement + self.options) + self.window + _TCP - transport
        weight = count + (count // 2) * 255 * self.odd
        checksum = (self.sum + weight * constant - constant - size - self.first_sequence - offset_flags) % 65535

        header = bytearray(first[:header_size])
        if transport == 20:
            _UINT16.pack_into(header, 2, size)
            # Adjusted, not made anew: a wrong header checksum stays wrong.
            _UINT16.pack_into(header, 10, (_UINT16.unpack_from(first, 10)[0] + len(first) - size) % 65535)
        else:
            _UINT16.pack_into(header, 4, size - 40)
        _UINT16.pack_into(header, transport + 12, offset_flags)
        _UINT16.pack_into(header, transport + 16, checksum)
        gso_type = GSO_TCPV4 if transport == 20 else GSO_TCPV6
        vnet_header = VNET_HEADER.pack(0, gso_type, header_size, self.payload_size, 0, 0)
        return b"".join([vnet_header, header, *[packet[header_size:] for packet in packets]])
