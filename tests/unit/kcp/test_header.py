"""The session header and the segment header, against what stock nodes were seen to send."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_kcp_plugin.kcp.header import ACK_DATA, FIN, HEADER_SIZE, PING, PONG, SYN, SYN_ACK, PacketType, SessionHeader
from easytier_kcp_plugin.kcp.segment import SEGMENT_SIZE, Command, Segment, parse_segments
from tests.unit.kcp.captures import CAPTURES, kcp_packets


@pytest.mark.parametrize("file", CAPTURES)
def test_captured_headers_encode_to_the_same_bytes(file: str) -> None:
    for packet in kcp_packets(file):
        header = SessionHeader.parse(packet.payload)
        assert header.encode() == packet.payload[:HEADER_SIZE]
        expected = PacketType.KCP_SRC if header.src_session_id == packet.from_peer else PacketType.KCP_DST
        assert packet.packet_type == expected
        assert {header.src_session_id, header.dst_session_id} == {packet.from_peer, packet.to_peer}


@pytest.mark.parametrize("file", CAPTURES)
def test_stock_sends_only_the_known_combinations_of_flags(file: str) -> None:
    seen = Counter(SessionHeader.parse(packet.payload).flags for packet in kcp_packets(file))
    assert set(seen) <= {SYN, SYN_ACK, ACK_DATA, FIN, PING, PONG}
    assert seen[SYN] == seen[SYN_ACK] >= 1
    assert seen[FIN] == 2 * seen[SYN]


@pytest.mark.parametrize("file", CAPTURES)
def test_captured_segments_fill_their_body_and_encode_to_the_same_bytes(file: str) -> None:
    commands: Counter[int] = Counter()
    for packet in kcp_packets(file):
        header, body = SessionHeader.parse(packet.payload), packet.payload[HEADER_SIZE:]
        if header.flags != ACK_DATA:
            continue
        segments, size = parse_segments(body, header.conv)
        assert size == len(body)
        again, offset = b"", 0
        for segment in segments:
            offset += SEGMENT_SIZE
            again += segment.encode(body[offset : offset + segment.length])
            offset += segment.length
            commands[segment.cmd] += 1
        assert again == body
    assert commands[Command.PUSH] >= 4
    assert commands[Command.ACK] >= 4


def test_the_vector_of_the_specification() -> None:
    payload = bytes.fromhex(
        "44332211e9030000d20700000a004433221151000004640000000000000000000000050000006865 6c6c6f".replace(" ", "")
    )
    header = SessionHeader.parse(payload)
    assert header == SessionHeader(0x11223344, 1001, 2002, ACK_DATA)
    segments, size = parse_segments(payload[HEADER_SIZE:], header.conv)
    assert segments == [Segment(0x11223344, Command.PUSH, 0, 1024, 100, 0, 0, 5)]
    assert payload[HEADER_SIZE:][:size].endswith(b"hello")


def test_a_short_header_is_an_error_and_the_reserved_byte_is_ignored() -> None:
    payload = SessionHeader(1, 2, 3, 0xFF).encode()
    with pytest.raises(ValueError, match="13 bytes"):
        SessionHeader.parse(payload[:13])
    assert SessionHeader.parse(payload[:13] + b"\x77") == SessionHeader(1, 2, 3, 0xFF)


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        (Segment(7, Command.ACK, 0, 1, 2, 3, 4, 0), 2),
        (Segment(8, Command.ACK, 0, 1, 2, 3, 4, 0), 1),
        (Segment(7, 85, 0, 1, 2, 3, 4, 0), 1),
        (Segment(7, Command.PUSH, 0, 1, 2, 3, 4, 1), 1),
        (Segment(7, Command.PUSH, 0, 1, 2, 3, 4, 0xFFFF_FFFF), 1),
    ],
)
def test_the_first_broken_segment_ends_the_walk(second: Segment, kept: int) -> None:
    first = Segment(7, Command.PUSH, 0, 1, 2, 3, 4, 3)
    segments, size = parse_segments(first.encode(b"abc") + second.encode(), 7)
    assert segments == [first, second][:kept]
    assert size == SEGMENT_SIZE * kept + 3


@given(st.binary(max_size=200), st.integers(0, 0xFFFF_FFFF))
def test_any_body_has_segments_within_it(body: bytes, conv: int) -> None:
    segments, size = parse_segments(body, conv)
    assert size == sum(SEGMENT_SIZE + segment.length for segment in segments) <= len(body)
