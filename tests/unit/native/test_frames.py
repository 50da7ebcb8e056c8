"""Device frames: what the stack writes into them, and the pure functions that finish and cut what a kernel left undone."""

import struct
from random import Random

import pytest

from easytier_kcp_plugin._native import Stack, complete_checksum, split_frame
from tests.unit.native.segments import (
    ACK,
    CLIENT,
    CLIENT6,
    FIN,
    PSH,
    SERVER,
    SERVER6,
    SYN,
    VNET_HEADER,
    Endpoint,
    Tcp,
    is_intact,
    parse,
    pseudo_sum,
)
from tests.unit.native.wire import Pair

NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, TCPV6, UDP = 1, 4, 5
ECN, CWR = 0x80, 0x80

FAMILIES = pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["v4", "v6"])


def header_size(packet: bytes) -> int:
    return 20 if packet[0] >> 4 == 4 else 40


def unfinished(packet: bytes, field: int = 16) -> bytes:
    """The packet with the pseudo-header's sum where its checksum belongs."""
    at = header_size(packet) + field
    return packet[:at] + struct.pack(">H", pseudo_sum(packet)) + packet[at + 2 :]


def frame(packet: bytes, flags: int = 0, gso_type: int = 0, gso_size: int = 0, field: int = 16) -> bytes:
    start = header_size(packet)
    return VNET_HEADER.pack(flags, gso_type, start + 20, gso_size, start if flags & NEEDS_CSUM else 0, field) + packet


def udp(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
    """A UDP packet with a right checksum, from a TCP packet of the same length."""
    length = 8 + len(payload)
    shell = Tcp(source, destination, 0).pack(protocol=17)
    start = header_size(shell)
    if start == 20:
        ip = bytearray(shell[:20])
        ip[2:4] = struct.pack(">H", 20 + length)
        ip[10:12] = bytes(2)
        total = sum(word for (word,) in struct.iter_unpack(">H", ip))
        ip[10:12] = struct.pack(">H", 0xFFFF - ((total & 0xFFFF) + (total >> 16)))
    else:
        ip = bytearray(shell[:40])
        ip[4:6] = struct.pack(">H", length)
    packet = bytes(ip) + struct.pack(">HHHH", source[1], destination[1], length, 0) + payload
    at = start + 6
    total = pseudo_sum(packet) + sum(word for (word,) in struct.iter_unpack(">H", packet[start:] + b"\0" * (length % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:at] + struct.pack(">H", 0xFFFF - total or 0xFFFF) + packet[at + 2 :]


@FAMILIES
def test_frames_of_the_stack_carry_the_pseudo_header_sum(source: Endpoint, destination: Endpoint) -> None:
    pair = Pair(vnet_header=True)
    left, right = pair.connect(source, destination)
    pair.left.send(left, bytes(10_001))
    pair.deliver(pair.right, right, 10_001)
    start = 20 if source is CLIENT else 40
    for output in pair.left.sent + pair.right.sent:
        assert VNET_HEADER.unpack_from(output) == (NEEDS_CSUM, 0, 0, 0, start, 16)
        packet = output[10:]
        assert parse(packet).checksum == pseudo_sum(packet)
        assert is_intact(complete_checksum(output))


def test_the_first_frame_of_a_connection_byte_by_byte() -> None:
    stack = Stack(mtu=1380, seed=7, vnet_header=True, receive_buffer=4096)
    stack.connect(CLIENT, SERVER)
    [output] = stack.step([], 0.0)[0]
    sequence = output[34:38].hex()
    assert (
        output.hex()
        == (
            "01000000000014001000"  # NEEDS_CSUM from 20 on, its field 16 later
            "45000034000040004006" + "26c2" + "0a0000010a000002"  # right IP checksum
            "9c400050" + sequence + "0000000080021000" + "1429" + "0000"  # sum of the pseudo-header
            "0204053c" + "030300" + "0402" + "000000"  # segment size, no window scale, SACK permitted
        )
    )


@FAMILIES
def test_super_packets_say_how_to_be_cut(source: Endpoint, destination: Endpoint) -> None:
    pair = Pair(vnet_header=True, tso_max=65_535, congestion="none")
    left, right = pair.connect(source, destination)
    ip_size, kind = (20, TCPV4) if source is CLIENT else (40, TCPV6)
    pair.left.send(left, b"wide")
    pair.settle()
    pair.left.stack.send(left, Random(3).randbytes(200_000))
    output = pair.left.stack.step([], pair.now, 200)[0]
    assert max(map(len, output)) > 60_000
    assert max(map(len, output)) <= 10 + 65_535
    for packet in output:
        flags, gso_type, header, size, start, offset = VNET_HEADER.unpack_from(packet)
        assert (flags, start, offset) == (NEEDS_CSUM, ip_size, 16)
        expected = (kind, ip_size + 20, 1360 - ip_size) if len(packet) > 1390 else (0, 0, 0)
        assert (gso_type, header, size) == expected
        assert parse(packet[10:]).checksum == pseudo_sum(packet[10:])
        pieces = split_frame(packet, 1380)
        assert all(is_intact(piece) and len(piece) <= 1380 for piece in pieces)
        assert b"".join(parse(piece).payload for piece in pieces) == parse(packet[10:]).payload
    pair.right.stack.step(output, pair.now)
    pair.right.drain(right)
    assert len(pair.right.received[right]) == 200_004


@FAMILIES
def test_a_super_packet_ends_with_its_message(source: Endpoint, destination: Endpoint) -> None:
    pair = Pair(vnet_header=True, tso_max=65_535, congestion="none")
    left, _ = pair.connect(source, destination)
    frames = []
    for size in (5000, 100, 200):
        pair.left.stack.send(left, bytes(size))
        frames += pair.left.stack.step([], pair.now)[0]
    segments = [parse(output[10:]) for output in frames]
    assert [(len(segment.payload), segment.flags) for segment in segments] == [
        (5000, ACK | PSH),
        (100, ACK | PSH),
        (200, ACK | PSH),
    ]


@pytest.mark.parametrize("flags", [NEEDS_CSUM, DATA_VALID])
def test_a_checksum_that_is_vouched_for_is_not_looked_at(flags: int) -> None:
    packet = unfinished(Tcp(CLIENT, SERVER, SYN).pack())
    stack = Stack(mtu=1380, seed=1, vnet_header=True)
    assert stack.step([frame(packet, flags)], 0.0)[1]
    assert Stack(mtu=1380, seed=1, vnet_header=True).step([frame(packet)], 0.0)[1] == []


@FAMILIES
@pytest.mark.parametrize("length", [0, 1, 2, 3, 1339, 1340])
def test_complete_checksum(source: Endpoint, destination: Endpoint, length: int) -> None:
    payload = Random(length).randbytes(length)
    for packet, field in (
        (Tcp(source, destination, ACK, 5, 6, payload=payload, options=bytes([1, 1, 1, 0])).pack(), 16),
        (udp(source, destination, payload), 6),
    ):
        assert is_intact(packet)
        assert complete_checksum(frame(unfinished(packet, field), NEEDS_CSUM, field=field)) == packet
        assert split_frame(frame(unfinished(packet, field), NEEDS_CSUM, field=field), 1380) == [packet]
        assert complete_checksum(frame(packet)) == packet


def test_a_udp_checksum_is_never_zero() -> None:
    # Of all two-byte payloads exactly one gives a sum of 0xffff, and so a checksum of 0, which would mean none.
    zero = [value for value in range(65_536) if complete(value)[26:28] == b"\xff\xff"]
    assert len(zero) == 1
    assert all(complete(value)[26:28] != b"\0\0" for value in (zero[0] - 1, zero[0], zero[0] + 1))


def complete(value: int) -> bytes:
    packet = BASE[:-2] + struct.pack(">H", value)
    return complete_checksum(frame(packet[:26] + struct.pack(">H", pseudo_sum(packet)) + packet[28:], NEEDS_CSUM, field=6))


BASE = udp(CLIENT, SERVER, b"\0\0")


@FAMILIES
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(
    ("length", "size", "mtu"), [(2681, 1340, 1500), (65_000, 1340, 1380), (5000, 1400, 1100), (3, 1, 1500)]
)
def test_split_tcp(source: Endpoint, destination: Endpoint, partial: bool, length: int, size: int, mtu: int) -> None:
    payload = Random(length).randbytes(length)
    options = bytes([1, 1, 8, 10]) + bytes(8)
    sequence = 2**32 - 1000
    whole = Tcp(source, destination, ACK | PSH | FIN | CWR, sequence, 77, 500, payload, options)
    packet = whole.pack()
    kind = (TCPV4 if source is CLIENT else TCPV6) | ECN
    given = frame(unfinished(packet), NEEDS_CSUM, kind, size) if partial else frame(packet, 0, kind, size)
    pieces = split_frame(given, mtu)

    headers = header_size(packet) + 32
    expected = min(size, mtu - headers)
    assert all(is_intact(piece) for piece in pieces)
    segments = [parse(piece) for piece in pieces]
    assert [len(segment.payload) for segment in segments[:-1]] == [expected] * (len(segments) - 1)
    assert b"".join(segment.payload for segment in segments) == payload
    assert [segment.sequence for segment in segments] == [(sequence + i * expected) % 2**32 for i in range(len(segments))]
    assert segments[0].flags == ACK | CWR | (0 if len(segments) > 1 else PSH | FIN)
    assert {segment.flags for segment in segments[1:-1]} <= {ACK}
    assert segments[-1].flags & (PSH | FIN) == PSH | FIN
    assert {(segment.options, segment.acknowledgement, segment.window) for segment in segments} == {(options, 77, 500)}
    if source is CLIENT:
        assert [int.from_bytes(piece[4:6], "big") for piece in pieces] == [7 + i for i in range(len(pieces))]


@FAMILIES
@pytest.mark.parametrize("partial", [True, False])
def test_split_udp(source: Endpoint, destination: Endpoint, partial: bool) -> None:
    payload = Random(1).randbytes(4001)
    packet = udp(source, destination, payload)
    flags = NEEDS_CSUM if partial else 0
    pieces = split_frame(frame(unfinished(packet, 6) if partial else packet, flags, UDP, 1000, field=6), 1380)
    start = header_size(packet) + 8
    assert [len(piece) - start for piece in pieces] == [1000] * 4 + [1]
    assert all(is_intact(piece) for piece in pieces)
    assert b"".join(piece[start:] for piece in pieces) == payload
    assert [int.from_bytes(piece[start - 4 : start - 2], "big") for piece in pieces] == [1008] * 4 + [9]


SEGMENT = Tcp(CLIENT, SERVER, ACK, payload=bytes(100)).pack()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", "too short for a device frame"),
        (bytes(9), "too short for a device frame"),
        (bytes(10), "not an IP packet"),
        (bytes(60), "not an IP packet"),
        (VNET_HEADER.pack(0, 0, 0, 0, 0, 0) + SEGMENT[:19], "too short for an IP packet"),
        (VNET_HEADER.pack(1, 0, 0, 0, 0, 16) + SEGMENT, "checksum lies outside"),
        (VNET_HEADER.pack(1, 0, 0, 0, 20, 60_000) + SEGMENT, "checksum lies outside"),
        (VNET_HEADER.pack(1, 0, 0, 0, len(SEGMENT), 0) + SEGMENT, "checksum lies outside"),
        (VNET_HEADER.pack(0, 3, 40, 50, 0, 0) + SEGMENT, "segmentation type"),
        (VNET_HEADER.pack(0, TCPV6, 40, 50, 0, 0) + SEGMENT, "segmentation type"),
        (VNET_HEADER.pack(0, TCPV4, 40, 0, 0, 0) + SEGMENT, "cannot be cut"),
        (VNET_HEADER.pack(0, TCPV4, 40, 50, 0, 0) + SEGMENT[:40], "cannot be cut"),
        (VNET_HEADER.pack(0, TCPV4, 40, 50, 0, 0) + SEGMENT[:-1] + b"x", "wrong checksum"),
        (VNET_HEADER.pack(1, TCPV4, 40, 50, 24, 16) + SEGMENT, "no transport header"),
        (VNET_HEADER.pack(0, UDP, 28, 50, 0, 0) + SEGMENT, "no transport header"),
    ],
)
def test_a_malformed_frame_raises(given: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_frame(given, 1380)


@pytest.mark.parametrize("mtu", [0, 20, 40])
def test_an_mtu_without_room_for_payload_raises(mtu: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        split_frame(frame(SEGMENT, 0, TCPV4, 50), mtu)
