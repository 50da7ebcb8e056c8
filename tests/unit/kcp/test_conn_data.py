"""The body of a SYN: stock's bytes, protobuf's own encoder, and garbage."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host.pb import peer_rpc_pb2
from easytier_kcp_plugin.kcp.conn_data import MAX_SIZE, ConnData, Offer, SocketAddress
from easytier_kcp_plugin.kcp.header import HEADER_SIZE, SYN, SessionHeader
from tests.unit.kcp.captures import CAPTURES, kcp_packets

VECTOR = bytes.fromhex("0a0b0a050881a0c25418d08603220a0a0508848484501890 3f".replace(" ", ""))

addresses = st.builds(
    SocketAddress,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 65535),
)
offers = st.builds(Offer, *[st.integers(0, 0xFFFF_FFFF)] * 3)


def test_the_vector_of_the_specification() -> None:
    data = ConnData.decode(VECTOR)
    assert data == ConnData(SocketAddress(IPv4Address("10.144.144.1"), 50_000), SocketAddress(IPv4Address("10.1.2.4"), 8080))
    assert data.encode() == VECTOR
    assert str(data.dst) == "10.1.2.4:8080"


@pytest.mark.parametrize("file", CAPTURES)
def test_captured_syns_round_trip(file: str) -> None:
    bodies = [p.payload[HEADER_SIZE:] for p in kcp_packets(file) if SessionHeader.parse(p.payload).flags == SYN]
    assert bodies
    for body in bodies:
        data = ConnData.decode(body)
        assert data.encode() == body
        assert data.src is not None
        assert data.dst is not None
        assert (str(data.src.ip), str(data.dst.ip), data.offer) == ("10.144.0.1", "10.144.0.2", None)


@given(st.one_of(st.none(), addresses), st.one_of(st.none(), addresses), st.one_of(st.none(), offers))
def test_what_is_encoded_decodes_to_the_same(src: SocketAddress | None, dst: SocketAddress | None, offer: Offer | None) -> None:
    data = ConnData(src, dst, offer)
    assert ConnData.decode(data.encode()) == data


@given(st.one_of(st.none(), addresses), addresses)
def test_protobuf_reads_and_writes_the_same_bytes(src: SocketAddress | None, dst: SocketAddress) -> None:
    """As stock's schema has it, to which our offer is an unknown field."""
    encoded = ConnData(src, dst).encode()
    message = peer_rpc_pb2.KcpConnData.FromString(encoded)
    assert message.HasField("src") == (src is not None)
    assert message.SerializeToString() == encoded
    with_offer = peer_rpc_pb2.KcpConnData.FromString(ConnData(src, dst, Offer()).encode())
    with_offer.DiscardUnknownFields()
    assert with_offer == message


@given(st.binary(max_size=600))
def test_anything_decodes_or_is_a_value_error(message: bytes) -> None:
    try:
        data = ConnData.decode(message)
    except ValueError:
        return
    assert ConnData.decode(data.encode()) == data


@given(addresses, st.integers(0, 60))
def test_every_cut_is_a_value_error_or_a_message_with_less_in_it(address: SocketAddress, cut: int) -> None:
    encoded = ConnData(address, address, Offer()).encode()
    try:
        data = ConnData.decode(encoded[:cut])
    except ValueError:
        return
    assert cut >= len(encoded) or None in (data.src, data.dst, data.offer)


def test_unknown_fields_and_wire_types_are_skipped() -> None:
    known = ConnData(None, SocketAddress(IPv6Address("fd00::1"), 443))
    unknown = bytes.fromhex("4801 51 0102030405060708 5d 01020304 6a 03 616263 08 07".replace(" ", ""))
    assert ConnData.decode(unknown + known.encode()) == known


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a\x05\x0a",  # longer than the message
        b"\x08" + b"\x80" * 11,  # a varint without end
        b"\x00\x00",  # field number 0
        b"\x0b",  # a group
        b"\x09\x01",  # eight bytes, of which one is there
        b"\x22\x0b\x0a\x05\x08\x81\xa0\xc2\x54\x18\x80\x80\x04",  # port 65536
        bytes(MAX_SIZE + 1),
    ],
)
def test_broken_messages(message: bytes) -> None:
    with pytest.raises(ValueError, match="connection data"):
        ConnData.decode(message)


def test_an_address_without_ip_is_all_zero_as_in_stock() -> None:
    assert ConnData.decode(bytes.fromhex("22021850")).dst == SocketAddress(IPv4Address(0), 0)
    assert ConnData.decode(b"\x22\x00").dst == SocketAddress(IPv4Address(0), 0)
