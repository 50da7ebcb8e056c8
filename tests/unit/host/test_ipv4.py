"""IPv4 packets and UDP datagrams, built and read."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easytier_host import ipv4
from easytier_host.ipv4 import UdpDatagram
from easytier_host.nic.offload import ones_complement_sum
from tests.unit.host.helpers import tcp_segment, udp_packet

A, B = IPv4Address("10.144.0.1").packed, IPv4Address("10.144.0.2").packed
PORTS = st.integers(0, 0xFFFF)


@given(PORTS, PORTS, st.binary(max_size=3000), st.integers(0, 0xFFFF))
def test_datagrams_come_back_as_they_were(source_port: int, destination_port: int, data: bytes, identification: int) -> None:
    datagram = UdpDatagram(source_port, destination_port, data)
    packet = ipv4.build_udp(A, B, datagram, identification)
    assert ipv4.parse_udp(packet) == datagram
    assert ipv4.parse_udp(packet + b"padding") == datagram
    assert ones_complement_sum(packet[:20]) % 0xFFFF == 0
    assert (packet[12:16], packet[16:20]) == (A, B)
    assert int.from_bytes(packet[4:6], "big") == identification


def test_a_checksum_that_would_be_zero_is_not_mistaken_for_none() -> None:
    packets = [ipv4.build_udp(A, B, UdpDatagram(1, 2, struct.pack("!H", number))) for number in range(0x10000)]
    fields = [packet[26:28] for packet in packets]
    assert b"\x00\x00" not in fields
    assert b"\xff\xff" in fields


def test_a_datagram_without_checksum_is_taken_and_a_damaged_one_is_not() -> None:
    assert ipv4.parse_udp(udp_packet("10.144.0.1", "10.144.0.2", b"hello")) == UdpDatagram(5000, 53, b"hello")
    packet = bytearray(ipv4.build_udp(A, B, UdpDatagram(5000, 53, b"hello")))
    packet[-1] ^= 1
    assert ipv4.parse_udp(bytes(packet)) is None


@pytest.mark.parametrize("length", [0, 7, 14, 0xFFFF])
def test_a_datagram_with_a_wrong_length_is_not_taken(length: int) -> None:
    packet = bytearray(udp_packet("10.144.0.1", "10.144.0.2", b"hello"))
    packet[24:26] = length.to_bytes(2, "big")
    assert ipv4.parse_udp(bytes(packet)) is None


def test_options_are_passed_over() -> None:
    packet = tcp_segment(options=3, data=b"payload")
    payload = ipv4.payload_of(packet)
    assert payload is not None
    assert payload.endswith(b"payload")
    assert len(payload) == 27


def test_other_protocols_and_fragments_are_no_datagrams() -> None:
    packet = udp_packet("10.144.0.1", "10.144.0.2", b"hello")
    assert ipv4.parse_udp(tcp_segment()) is None
    assert ipv4.parse_udp(packet[:6] + b"\x20\x00" + packet[8:]) is None
    assert ipv4.parse_udp(packet[:6] + b"\x00\x01" + packet[8:]) is None
    assert ipv4.is_fragment(packet[:6] + b"\x20\x00" + packet[8:])
    assert not ipv4.is_fragment(packet[:6] + b"\x40\x00" + packet[8:])


def test_what_fits_no_packet_is_refused() -> None:
    largest = 65_535 - 28
    assert len(ipv4.build_udp(A, B, UdpDatagram(1, 2, bytes(largest)))) == 65_535
    with pytest.raises(ValueError, match="do not fit"):
        ipv4.build_udp(A, B, UdpDatagram(1, 2, bytes(largest + 1)))
    with pytest.raises(ValueError, match="do not fit"):
        ipv4.build(A, B, ipv4.ICMP, bytes(65_516))


@given(st.binary(max_size=80))
def test_any_bytes_are_survived(data: bytes) -> None:
    for packet in (data, b"\x45" + data, udp_packet("10.144.0.1", "10.144.0.2", b"")[:20] + data):
        ipv4.payload_of(packet)
        ipv4.parse_udp(packet)
