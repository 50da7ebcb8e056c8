"""The peer header: layout, bounds, and what is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.packet import PEER_HEADER_SIZE, Flag, PacketType, PeerHeader, build_frame

U32 = st.integers(0, 0xFFFF_FFFF)
U8 = st.integers(0, 0xFF)


def test_layout_is_that_of_the_specification() -> None:
    # Appendix A4 of the specification.
    header = PeerHeader(0xA1B2C3D4, 0x11223344, PacketType.DATA, Flag.ENCRYPTED, 1, 36)
    assert header.encode() == bytes.fromhex("d4c3b2a1443322110101010024000000")


@given(U32, U32, U8, U8, U8, U32)
def test_any_header_survives_a_round_trip(source: int, target: int, kind: int, flags: int, counter: int, length: int) -> None:
    header = PeerHeader(source, target, kind, flags, counter, length)
    assert PeerHeader.parse(header.encode()) == header
    assert len(header.encode()) == PEER_HEADER_SIZE


def test_reserved_byte_is_ignored_on_receipt_and_written_as_zero() -> None:
    encoded = bytearray(PeerHeader(1, 2, 4, 0, 1, 4).encode())
    encoded[11] = 0xAB
    assert PeerHeader.parse(bytes(encoded)).encode()[11] == 0


@given(st.binary(max_size=PEER_HEADER_SIZE - 1))
def test_a_short_frame_is_an_error(frame: bytes) -> None:
    with pytest.raises(ValueError, match="shorter than a peer header"):
        PeerHeader.parse(frame)


def test_build_frame_writes_the_payload_length_and_starts_to_count_at_one() -> None:
    frame = build_frame(7, 9, PacketType.PING, b"\x01\x02\x03\x04")
    assert PeerHeader.parse(frame) == PeerHeader(7, 9, PacketType.PING, 0, 1, 4)
    assert frame[PEER_HEADER_SIZE:] == b"\x01\x02\x03\x04"


def test_packet_types_and_flags_have_the_values_of_the_wire() -> None:
    assert {kind.name: kind.value for kind in (PacketType.RPC_REQ, PacketType.KCP_SRC, PacketType.RELAY_HANDSHAKE_ACK)} == {
        "RPC_REQ": 8,
        "KCP_SRC": 11,
        "RELAY_HANDSHAKE_ACK": 21,
    }
    assert [int(flag) for flag in Flag] == [0x01, 0x02, 0x04, 0x08, 0x10, 0x40]
